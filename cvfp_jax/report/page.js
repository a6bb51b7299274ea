
"use strict";
// Sorts a table by the column whose heading is pressed; once more turns the order around.
const NUMBER = 0, TEXT = 1, UNKNOWN = 2;  // in this order whichever way a column is sorted

function key(row, column) {
  const cell = row.cells[column];
  if ("value" in cell.dataset) return [NUMBER, Number(cell.dataset.value)];
  const text = cell.textContent.trim();
  return text === "" || text === "-" ? [UNKNOWN, ""] : [TEXT, text];
}

function compare([kind, value], [otherKind, otherValue], sign) {
  if (kind !== otherKind) return kind - otherKind;
  if (kind === TEXT) return sign * value.localeCompare(otherValue, "en", { numeric: true });
  return value === otherValue ? 0 : sign * (value < otherValue ? -1 : 1);
}

function sort(heading) {
  const ascending = heading.getAttribute("aria-sort") !== "ascending";
  for (const other of heading.parentElement.cells) other.removeAttribute("aria-sort");
  heading.setAttribute("aria-sort", ascending ? "ascending" : "descending");
  const body = heading.closest("table").tBodies[0];
  const keyed = Array.from(body.rows, (row) => [key(row, heading.cellIndex), row]);
  keyed.sort(([a], [b]) => compare(a, b, ascending ? 1 : -1));  // a stable sort
  body.append(...keyed.map(([, row]) => row));
}

for (const button of document.querySelectorAll("thead button")) {
  button.addEventListener("click", () => sort(button.closest("th")));
}
