"use strict";
// Sorting of every table: a button in each heading. Without it the page reads as well.
for (const table of document.querySelectorAll("table")) {
  const headings = [...table.tHead.rows[0].cells];
  const body = table.tBodies[0];
  if (body.rows.length < 2) continue;
  const collator = new Intl.Collator(undefined, { numeric: true });
  const key = (row, index, number) => {
    const cell = row.cells[index];
    if (number) return cell.dataset.value === undefined ? null : Number(cell.dataset.value);
    return cell.dataset.empty === undefined ? cell.textContent.trim() : null;
  };
  const sort = (index) => {
    const heading = headings[index];
    const number = heading.dataset.number !== undefined;
    const current = heading.getAttribute("aria-sort");
    const up = current ? current === "descending" : !number;
    const keyed = [...body.rows].map((row) => [key(row, index, number), row]);
    keyed.sort(([a], [b]) => {
      if (a === null || b === null) return (a === null) - (b === null); // empty ones last, both ways
      const order = number ? a - b : collator.compare(a, b);
      return up ? order : -order;
    });
    body.append(...keyed.map(([, row]) => row));
    for (const other of headings) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", up ? "ascending" : "descending");
  };
  headings.forEach((heading, index) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...heading.childNodes);
    button.addEventListener("click", () => sort(index));
    heading.append(button);
  });
}
