// What is longer or wider than a screen. Long tables can be sorted: a press on a name sorts by it, the next one turns it around.
const LONG = 8; // rows
const NUMBER = /^[−-]?[\d,]*\.?\d+( ±.*)?$/; // a mean may have errors behind it

function sortable(table) {
  const [body] = table.tBodies,
    heads = table.tHead.rows,
    names = [...heads[heads.length - 1].cells];
  for (const name of names) {
    if (!name.textContent.trim()) continue;
    const button = document.createElement("button");
    button.type = "button";
    button.className = "lmc-sort";
    button.append(...name.childNodes);
    button.addEventListener("click", () => sort(name));
    name.append(button);
  }

  function sort(name) {
    const column = name.cellIndex + heads.length - 1, // a second row of names begins behind the rows' own
      down = name.getAttribute("aria-sort") === "ascending";
    const rows = [...body.rows].map((row) => ({ row, text: row.cells[column].textContent.trim() }));
    const full = rows.filter(({ text }) => text),
      numbers = full.every(({ text }) => NUMBER.test(text));
    const amount = (text) => parseFloat(text.replaceAll(",", "").replace("−", "-"));
    full.sort(({ text: a }, { text: b }) =>
      numbers ? amount(a) - amount(b) : a.localeCompare(b, "en", { numeric: true }),
    );
    for (const other of names) other.removeAttribute("aria-sort");
    name.setAttribute("aria-sort", down ? "descending" : "ascending");
    body.append(
      ...[...(down ? full.reverse() : full), ...rows.filter(({ text }) => !text)].map(({ row }) => row),
    );
  }
}

for (const table of document.querySelectorAll(".lmc-table table"))
  if (table.tBodies[0].rows.length >= LONG) sortable(table);

// A table that is wider than its page has the errors under their means.
function stack(table) {
  const box = table.parentElement;
  table.classList.remove("lmc-stacked");
  table.classList.toggle("lmc-stacked", box.scrollWidth > box.clientWidth);
}
const watch = new ResizeObserver((seen) => seen.forEach(({ target }) => stack(target.firstElementChild)));
for (const box of document.querySelectorAll(".lmc-table > div")) watch.observe(box);

// The Tab key reaches what scrolls sideways, so that the arrow keys can.
const scrolls = new ResizeObserver((seen) => {
  for (const { target } of seen)
    if (target.scrollWidth > target.clientWidth) target.tabIndex = 0;
    else target.removeAttribute("tabindex");
});
for (const box of document.querySelectorAll("article :is(div.math, pre, figure:has(> img.lmc-wide))"))
  scrolls.observe(box);
