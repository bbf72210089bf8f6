"use strict";
// Sorting of tables, a filter for groups, and the same group lit up everywhere.
for (const table of document.querySelectorAll("table.sortable")) {
  table.querySelectorAll("th button").forEach((button) => {
    button.addEventListener("click", () => {
      const cell = button.parentElement, column = cell.cellIndex;
      const falling = cell.getAttribute("aria-sort") !== "descending";
      for (const other of table.querySelectorAll("th")) other.removeAttribute("aria-sort");
      cell.setAttribute("aria-sort", falling ? "descending" : "ascending");
      const value = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent.trim();
      const compare = (a, b) => {
        const x = value(a), y = value(b), numeric = x !== "" && !isNaN(x) && !isNaN(y);
        return numeric ? Number(x) - Number(y) : x.localeCompare(y, undefined, { numeric: true });
      };
      const rows = [...table.tBodies[0].rows];
      rows.sort((a, b) => (falling ? compare(b, a) : compare(a, b)));
      table.tBodies[0].append(...rows);
    });
  });
}

const filter = document.getElementById("filter");
filter?.addEventListener("input", () => {
  const wanted = filter.value.toLowerCase();
  for (const row of document.querySelectorAll("#groups tbody tr")) {
    row.hidden = !row.textContent.toLowerCase().includes(wanted);
  }
});

const picture = document.querySelector("svg.picture");
let held = null;
function light(number) {
  picture?.classList.toggle("chosen", number !== null);
  for (const part of document.querySelectorAll("[data-group]")) {
    const lit = number !== null && part.dataset.group.split(" ").includes(number);
    part.classList.toggle("lit", lit);
  }
}
function of(event) {
  const part = event.target.closest?.("[data-group]");
  return part && !part.dataset.group.includes(" ") && part.dataset.group !== "" ? part.dataset.group : null;
}
document.addEventListener("pointerover", (event) => {
  if (held === null) light(of(event));
});
document.addEventListener("click", (event) => {
  if (event.target.closest("summary, button, a, input")) return;
  const number = of(event);
  held = number === held ? null : number;
  light(held);
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") light((held = null));
});
