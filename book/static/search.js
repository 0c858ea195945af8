// Under each page that a search finds, what it is about: one line, from an index that the build wrote (SUMMARIES).
const root = document.documentElement.dataset.content_root;
const results = document.getElementById("search-results");
new MutationObserver(() => {
  for (const item of results.querySelectorAll("ul.search > li:not(.lmc-told)")) {
    item.classList.add("lmc-told");
    const page = new URL(item.querySelector("a").href).pathname;
    const said = SUMMARIES[page.slice(new URL(root, location).pathname.length).replace(/\.html$/, "")];
    if (said)
      item.append(Object.assign(document.createElement("p"), { className: "context", textContent: said }));
  }
}).observe(results, { childList: true, subtree: true });
