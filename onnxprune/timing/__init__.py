"""Times models side by side, here or on another machine, and says what the times mean."""
