// A type table as a picture: rows of parameters on both sides of a bus, or along a chain. One button a site and a parameter.

function render({ model, el }) {
  /** @type {SpecState} */
  const state = JSON.parse(model.get("state"));
  const { views } = state;
  let { bus, sites, params, rows } = views[0];
  let block = "",
    buttons = [],
    pinned = 0;

  const letter = (site) => h("b", { class: "lmc-letter", "aria-hidden": "true" }, sites[site].letter);
  const axis = ([text, site, _dual]) =>
    h(
      "span",
      site ? { ...look(sites[site], "lmc-axis"), "data-axis": site, "data-letter": sites[site].letter } : {},
      text,
    );
  const formula = (text) =>
    text
      .split(/([_^]\{.*?\})/)
      .map((part, i) => (i % 2 ? h(part[0] === "_" ? "sub" : "sup", {}, part.slice(2, -1)) : part));
  const where = ({ within }) => (within ? ` in each of ${within}` : "");
  const button = (kind, name, more, ...content) =>
    h("button", { type: "button", [`data-${kind}`]: name, tabindex: -1, ...more, ...FOCUS }, ...content);
  const siteButton = (name) =>
    button(
      "site",
      name,
      look(sites[name], "lmc-site"),
      letter(name),
      h("b", {}, name),
      h("span", {}, `${sites[name].class}(${sites[name].size})${where(sites[name])}`),
    );
  const paramButton = (name) => {
    const touch = bus && params[name].axes.some((a) => a[1] === bus);
    return button(
      "param",
      name,
      { class: `lmc-method lmc-param ${touch ? "lmc-wired" : ""}` },
      h("span", {}, ...name.split(/(?<=[._])/).flatMap((part) => [part, h("wbr")])),
      h("span", { class: "lmc-type" }, ...params[name].axes.map(axis)),
      h("i"),
    );
  };

  const grid = h("div", {
    role: "group",
    "aria-label": "sites and parameters",
  });
  const says = h("p", { class: "lmc-says", "aria-live": "polite" });
  const chooser = h("select", {
    ...FOCUS,
    onchange: () => {
      block = chooser.value;
      draw();
    },
  });
  // The idea in three steps: a space, what writes it, what reads it.
  const guide = h(
    "div",
    { class: "lmc-toggles lmc-go", role: "group", "aria-label": "the idea in three steps" },
    ...["1 A space", "2 What writes it", "3 What reads it"].map((name, i) =>
      h("button", { type: "button", onclick: () => step(i), ...FOCUS }, h("span", {}, name)),
    ),
  );
  const ofBlocks = h("label", { class: "lmc-choose" }, "block ", chooser);
  const networks = h(
    "select",
    { ...FOCUS, onchange: () => show(networks.selectedIndex) },
    ...views.map(({ name }) => h("option", {}, name)),
  );
  const free = h("p", { class: "lmc-free", role: "status" });
  const legend = h("ul", { class: "lmc-note" });
  frame(
    el,
    "spec",
    state,
    "Type table",
    [views.length > 1 ? h("label", { class: "lmc-choose" }, "network ", networks) : null, ofBlocks, guide],
    [
      [
        "Table as CSV",
        () =>
          save(
            "types.csv",
            "text/csv",
            csv([
              ["parameter", "type", "shape", "moved"],
              ...Object.entries(params).map(([name, p]) => [
                name,
                p.axes.map(([text]) => text).join(" "),
                p.shape,
                p.moved,
              ]),
            ]),
          ),
      ],
    ],
    free,
    grid,
    says,
    legend,
  );

  // One network: its blocks, its classes, and in how many directions it is free.
  function show(at) {
    ({ bus, sites, params, rows } = views[at]);
    const blocks = [...new Set(rows.map((row) => row.block).filter(Boolean))];
    block = blocks[0] ?? "";
    chooser.replaceChildren(...blocks.map((name) => h("option", {}, name)));
    ofBlocks.hidden = blocks.length < 2;
    grid.setAttribute("class", `lmc-spec ${bus ? "" : "lmc-chain"}`);
    const classes = new Map(Object.keys(sites).map((name) => [sites[name].class, name]));
    legend.replaceChildren(
      ...[...classes].map(([name, site]) =>
        h("li", look(sites[site]), letter(site), `${name}: ${sites[site].words}`),
      ),
    );
    free.replaceChildren(...aboutFreedom());
    pinned = 0;
    draw();
  }

  function draw() {
    const side = (row, name) => h("div", { class: `lmc-${name}` }, ...row[name].map(paramButton));
    grid.replaceChildren(
      ...rows
        .filter((row) => !row.block || row.block === block)
        .map((row) =>
          h(
            "div",
            { class: "lmc-row" },
            bus ? h("div", { ...look(sites[bus], "lmc-bus"), "data-site": bus }) : null,
            h("div", { class: "lmc-inside" }, ...row.sites.map(siteButton)),
            side(row, "left"),
            side(row, "right"),
          ),
        ),
    );
    buttons = [...grid.querySelectorAll("button")];
    light((pinned = Math.min(pinned, buttons.length - 1)));
  }

  // All parameters and sites that the chosen one touches.
  function light(at) {
    const { site, param } = buttons[at].dataset,
      axes = param ? params[param].axes : [];
    for (const node of grid.querySelectorAll("[data-site], [data-param]")) {
      const own = node.dataset,
        use = own.param && params[own.param].axes.find((a) => a[1] === site);
      node.classList.toggle(
        "lmc-lit",
        !!(use || node === buttons[at] || (own.site && [site, ...axes.map((a) => a[1])].includes(own.site))),
      );
      if (!own.param) continue;
      node.setAttribute("style", use ? look(sites[site]).style : "");
      node.lastChild.textContent = use ? (use[2] ? "reads" : "writes") : "";
      for (const part of node.querySelectorAll("[data-axis]"))
        part.classList.toggle("lmc-lit", part.dataset.axis === site || own.param === param);
    }
    buttons.forEach((node, i) => {
      node.tabIndex = i === pinned ? 0 : -1;
      node.setAttribute("aria-pressed", String(i === at));
    });
    says.replaceChildren(...(site ? aboutSite(site) : aboutParam(param)));
  }

  // Sites of one kind have names that differ in the number of their block.
  function aboutFreedom() {
    const kinds = new Map();
    for (const [name, site] of Object.entries(sites)) {
      const kind = name.replace(/(\.\d+)+$/, "");
      kinds.set(kind, (kinds.get(kind) ?? 0) + site.free);
    }
    const total = [...kinds.values()].reduce((sum, n) => sum + n, 0);
    const parts = [...kinds].filter(([, n]) => n).map(([kind, n]) => `${kind} ${n.toLocaleString("en")}`);
    return [
      h("b", {}, `${total.toLocaleString("en")} free directions`),
      parts.length ? `: ${parts.join(" + ")}.` : ": units only change places.",
    ];
  }
  const some = (names) =>
    names.length > 4
      ? `${names.slice(0, 3).join(", ")} and ${names.length - 3} more`
      : names.join(", ") || "nothing";
  function aboutSite(name) {
    const s = sites[name],
      uses = (dual) =>
        some(Object.keys(params).filter((p) => params[p].axes.some((a) => a[1] === name && a[2] === dual)));
    return [
      h("b", {}, name),
      ` ${s.within ? `has one map in each of the ${s.count} ${s.within}` : "has one map"}: ${s.words}, ${s.size} dimensions${s.splits ? "; its units may be split" : ""}. `,
      `Written by ${uses(false)}; read by ${uses(true)}.`,
    ];
  }
  function aboutParam(name) {
    const { shape, moved } = params[name];
    return [
      h("b", {}, name),
      ` (${shape}): `,
      ...(moved === name
        ? ["no symmetry moves it."]
        : [
            "a symmetry makes it ",
            h("span", { class: "lmc-formula" }, ...formula(moved)),
            moved.includes("⟨")
              ? "; ⟨\u00a0⟩ moves what holds the others, heads or experts; the rest acts in each of them."
              : ".",
          ]),
    ];
  }

  function step(i) {
    const names = buttons.map((node) => node.dataset.site).filter((name) => name && name !== bus);
    const site = names.findLast((name) => !sites[name].within) ?? bus;
    const uses = (name, dual) => params[name]?.axes.some((a) => a[1] === site && a[2] === dual);
    const shown = buttons.findIndex(({ dataset: { site: own, param } }) =>
      i ? uses(param, i === 2) && params[param].axes.length > 1 : own === site,
    );
    const lead = [
      "A site is a space of activations, with a map T.",
      `What writes ${site} is moved by its T.`,
      `What reads ${site} takes T back, so the network computes what it did.`,
    ][i];
    if (shown < 0) return;
    light((pinned = shown));
    says.prepend(h("b", {}, lead), " ");
  }

  const pin = (node) => {
    if (buttons.includes(node)) light((pinned = buttons.indexOf(node)));
  };
  const under = (event) => {
    const node = event.target.closest("[data-site], [data-param]");
    return node?.matches("div") ? buttons[0] : node;
  };
  grid.addEventListener("focusin", (event) => pin(event.target));
  grid.addEventListener("click", (event) => pin(under(event)));
  grid.addEventListener("pointerover", (event) => {
    const at = buttons.indexOf(under(event));
    if (at >= 0 && event.pointerType === "mouse") light(at);
  });
  grid.addEventListener("pointerleave", () => light(pinned));
  // In a list, the next item is below.
  onPress(grid, ({ right, up, page, end }) => {
    const by = right - up - 4 * page + end * buttons.length;
    buttons[clamp(pinned + by, 0, buttons.length - 1)].focus();
  });
  show(0);
}

export default { render };
