# ruff: noqa: E501 - one architecture a line
"""Architectures of transformers, one a line, all of them tiny: what `text_zoo.py` can build.

    name   class   base settings   inputs   further settings

A setting without a value (`-name`) is left to the class.
"""

ENCODERS = """
bert          BertForSequenceClassification         common  text
roberta       RobertaForSequenceClassification      common  text
xlm-roberta   XLMRobertaForMaskedLM                 common  text
camembert     CamembertForTokenClassification       common  text
distilbert    DistilBertForSequenceClassification   words   text  dim=64 hidden_dim=160 n_layers=2 n_heads=4 max_position_embeddings=80
albert        AlbertForSequenceClassification       common  text  embedding_size=48
electra       ElectraForSequenceClassification      common  text  embedding_size=48
deberta       DebertaForSequenceClassification      common  text  relative_attention=True pos_att_type=["p2c","c2p"] max_relative_positions=16
deberta-v2    DebertaV2ForSequenceClassification    common  text  relative_attention=True pos_att_type=["p2c","c2p"] position_buckets=8
mpnet         MPNetForSequenceClassification        common  text
modernbert    ModernBertForSequenceClassification   common  text  global_attn_every_n_layers=2
nomicbert     NomicBertForSequenceClassification    common  text
convbert      ConvBertForSequenceClassification     common  text  embedding_size=64 conv_kernel_size=3
fnet          FNetForSequenceClassification         common  ids
funnel        FunnelForSequenceClassification       words   fixed  d_model=64 block_sizes=[2,2] num_decoder_layers=1 n_head=4 d_head=16 d_inner=160
squeezebert   SqueezeBertForSequenceClassification  common  text  embedding_size=64 num_hidden_layers=4
mobilebert    MobileBertForSequenceClassification   common  text  embedding_size=32 intra_bottleneck_size=32 intermediate_size=64
layoutlm      LayoutLMForSequenceClassification     common  boxes  max_2d_position_embeddings=32
ernie         ErnieForSequenceClassification        common  text
roformer      RoFormerForSequenceClassification     common  text  embedding_size=64
bigbird       BigBirdForSequenceClassification      common  text  attention_type="original_full"
xlnet         XLNetForSequenceClassification        words   text  d_model=64 n_layer=2 n_head=4 d_inner=160
perceiver     PerceiverForSequenceClassification    words   latent  num_latents=8 d_latents=64 d_model=48 num_self_attends_per_block=2 num_self_attention_heads=4 num_cross_attention_heads=4 max_position_embeddings=12
"""

DECODERS = """
gpt2          GPT2LMHeadModel            gpt     text
gpt-neo       GPTNeoForCausalLM          common  text  -num_hidden_layers -num_attention_heads num_layers=2 num_heads=4 attention_types=[[["global","local"],1]] window_size=6
gpt-neox      GPTNeoXForCausalLM         common  text
gpt-j         GPTJForCausalLM            gpt     text  rotary_dim=8
codegen       CodeGenForCausalLM         gpt     text  rotary_dim=8
opt           OPTForCausalLM             common  text  ffn_dim=160 word_embed_proj_dim=64
bloom         BloomForCausalLM           words   text  hidden_size=64 n_layer=2 n_head=4
mpt           MptForCausalLM             words   text  d_model=64 n_layers=2 n_heads=4 expansion_ratio=3 max_seq_len=80
llama         LlamaForCausalLM           shared  text
mistral       MistralForCausalLM         shared  text  sliding_window=8
qwen2         Qwen2ForCausalLM           shared  text
qwen3         Qwen3ForCausalLM           shared  text  head_dim=16
gemma         GemmaForCausalLM           shared  text  head_dim=16
gemma2        Gemma2ForCausalLM          shared  text  head_dim=16 sliding_window=8
gemma3        Gemma3ForCausalLM          shared  text  head_dim=16 sliding_window=8
phi           PhiForCausalLM             common  text
phi3          Phi3ForCausalLM            shared  text
falcon        FalconForCausalLM          common  text  multi_query=True new_decoder_architecture=False
falcon-gqa    FalconForCausalLM          common  text  num_kv_heads=2 new_decoder_architecture=True
stablelm      StableLmForCausalLM        shared  text
olmo2         Olmo2ForCausalLM           shared  text
starcoder2    Starcoder2ForCausalLM      shared  text
cohere        CohereForCausalLM          shared  text
smollm3       SmolLM3ForCausalLM         shared  text
granite       GraniteForCausalLM         shared  text
mixtral       MixtralForCausalLM         shared  text  num_local_experts=4 num_experts_per_tok=2
qwen2-moe     Qwen2MoeForCausalLM        shared  text  num_experts=4 num_experts_per_tok=2 moe_intermediate_size=48 shared_expert_intermediate_size=64
gpt-oss       GptOssForCausalLM          shared  text  num_local_experts=4 num_experts_per_tok=2 head_dim=16
mamba         MambaForCausalLM           words   fixed  hidden_size=64 num_hidden_layers=2 state_size=8 use_mambapy=False
gpt2-cache    GPT2LMHeadModel            gpt     cache4
llama-cache   LlamaForCausalLM           shared  cache2
"""

PAIRS = """
t5            T5ForConditionalGeneration       words    pair  d_model=64 d_kv=16 d_ff=160 num_layers=2 num_heads=4 decoder_start_token_id=0
t5-gated      T5ForConditionalGeneration       words    pair  d_model=64 d_kv=16 d_ff=160 num_layers=2 num_heads=4 decoder_start_token_id=0 feed_forward_proj="gated-gelu" tie_word_embeddings=False
bart          BartForConditionalGeneration     seq2seq  pair
marian        MarianMTModel                    seq2seq  pair  decoder_vocab_size=120
pegasus       PegasusForConditionalGeneration  seq2seq  pair
mbart         MBartForConditionalGeneration    seq2seq  pair
whisper       WhisperForConditionalGeneration  seq2seq  speech  num_mel_bins=20 max_source_positions=32 max_target_positions=80
"""

SOUND = """
wav2vec2      Wav2Vec2ForCTC              wave    wave
hubert        HubertForCTC                wave    wave
wavlm         WavLMForCTC                 wave    wave
ast           ASTForAudioClassification   vision  spectrum  -image_size max_length=32 num_mel_bins=32 frequency_stride=8 time_stride=8
"""

IMAGES = """
vit           ViTForImageClassification          vision  image
deit          DeiTForImageClassification         vision  image
beit          BeitForImageClassification         vision  image  use_relative_position_bias=True use_mask_token=False
dinov2        Dinov2ForImageClassification       vision  image
yolos         YolosForObjectDetection            vision  image  num_detection_tokens=6 num_labels=5 image_size=[32,32]
swin          SwinForImageClassification         none    image  image_size=32 patch_size=2 embed_dim=32 depths=[2,2] num_heads=[2,4] window_size=4
segformer     SegformerForSemanticSegmentation   none    photo  depths=[1,1,2,1] hidden_sizes=[16,32,48,64] num_attention_heads=[1,2,3,4] decoder_hidden_size=64 num_labels=5
convnext      ConvNextForImageClassification     none    photo  hidden_sizes=[16,32,48,64] depths=[1,1,2,1] image_size=64
detr          DetrForObjectDetection             detr    image
clip          CLIPModel                          towers  both   projection_dim=48
siglip        SiglipModel                        towers  both
"""
