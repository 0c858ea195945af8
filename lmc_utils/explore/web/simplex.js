// The loss over the triangle between three networks, and on a walk around it; the point sits on a measured mixture.

const LEFT = 36,
  TOP = 30,
  BOTTOM = 26,
  HERE = 56; // of the plot; the column on its right shows the loss at the point
const FIELDS = ["loss", "excess", "accuracy"];

function render({ model, el }) {
  /** @type {SimplexState} */
  const state = JSON.parse(model.get("state"));
  const { n, places, splits, methods, levels, surfaces, images } = state;
  const find = (place) => places.findIndex((other) => place.every((x, k) => x === other[k]));
  const walk = Array.from({ length: 3 * n + 1 }, (_, t) =>
    find(t <= n ? [n - t, t, 0] : t <= 2 * n ? [0, 2 * n - t, t - n] : [t - 2 * n, 0, 3 * n - t]),
  );
  const mix = (place) => places[place].map((x, k) => `${Math.round((100 * x) / n)} % ${"ABC"[k]}`).join(", ");
  let at = find([n / 3, n / 3, n / 3]),
    split = 0,
    chosen = 0,
    xy,
    X,
    Y;
  const now = (m = chosen) => surfaces[m][split];

  // --- elements
  const ground = s("g"),
    drawn = s("g"),
    spot = s("g"),
    probe = s("g", { class: "lmc-probe" }, s("circle", { r: 22 }), s("circle", { r: 8 }));
  const panel = (label, top, ...content) =>
    s(
      "svg",
      {
        class: "lmc-panel",
        tabindex: 0,
        role: "slider",
        "aria-label": label,
        "aria-valuemin": 0,
        "aria-valuemax": top,
        ...FOCUS,
      },
      ...content,
    );
  const map = panel("Mixture of A, B and C, in the triangle", places.length - 1, ground, probe);
  const profile = panel("Place on the walk around the triangle", 3 * n, drawn, spot);
  const plots = h("div", { class: "lmc-plots" }, h("div", {}, map), h("div", {}, profile));
  const buttons = toggles(methods, "method shown", choose);
  const says = h("p", { class: "lmc-says" }),
    [crier, tell] = announcer(says),
    strip = h("div", { class: "lmc-strip" });
  const head = (name, i) => h("th", { scope: "col" }, h("span", i ? {} : { class: "lmc-hidden" }, name));
  const rows = methods.map((method, i) =>
    h(
      "tr",
      { "data-method": method.name, onclick: () => choose(i) },
      h("th", { scope: "row", ...look(method) }, swatch(method), " ", method.name),
      ...FIELDS.map((field) => h("td", { "data-field": field })),
      h("td", {}, h("span", { "data-field": "barrier" }), h("small", { "data-field": "at" })),
    ),
  );
  const figure = frame(
    el,
    "simplex",
    state,
    "The loss over a triangle",
    [
      buttons,
      splits.length > 1
        ? radios(splits, "data split", uniqueGroup(), (i) => {
            split = i;
            draw();
            tell();
          })
        : null,
    ],
    [
      ["Plots as SVG", () => save("simplex.svg", "image/svg+xml", drawing([map, profile]))],
      ["Numbers as CSV", saveNumbers],
    ],
    plots,
    says,
    strip,
    h(
      "table",
      {},
      h("thead", {}, h("tr", {}, ...["method", ...FIELDS, "barrier"].map(head))),
      h("tbody", {}, ...rows),
    ),
    crier,
  );

  // --- events
  function move(to) {
    if (to < 0) return;
    at = to;
    mark();
  }
  function choose(i) {
    chosen = i;
    draw();
    tell();
  }
  onDrag(
    map,
    (event) => {
      const box = map.getBoundingClientRect();
      const gaps = places.map((place) =>
        Math.hypot(...xy(place).map((v, k) => v - (k ? event.clientY - box.top : event.clientX - box.left))),
      );
      move(gaps.indexOf(Math.min(...gaps)));
    },
    probe,
  );
  onPress(map, ({ right, up, page, end }) => {
    const [a, b, c] = places[at],
      half = c >> 1;
    if (end) return move(find(end < 0 ? [a + b, 0, c] : [0, a + b, c]));
    if (page) return move(find(page > 0 ? [0, 0, n] : [a + half, b + c - half, 0]));
    if (right) return move(find([a - right, b + right, c]));
    const fromA = Number(up > 0 ? a >= b : a < b); // the larger of A and B gives to C, the smaller takes
    move(find([a - up * fromA, b - up * (1 - fromA), c + up]));
  });
  onKeys(
    profile,
    () => Math.max(0, walk.indexOf(at)),
    3 * n + 1,
    (t) => move(walk[t]),
  );
  onDrag(profile, (event) =>
    move(
      walk[
        clamp(
          Math.round(scale(X(0), X(3 * n), 0, 3 * n)(event.clientX - profile.getBoundingClientRect().left)),
          0,
          3 * n,
        )
      ],
    ),
  );
  function saveNumbers() {
    const lines = methods.flatMap((method, m) =>
      splits.flatMap((name, k) =>
        places.map((place, i) => [
          method.name,
          name,
          ...place.map((x) => x / n),
          ...FIELDS.map((field) => surfaces[m][k][field][i]),
        ]),
      ),
    );
    save("simplex.csv", "text/csv", csv([["method", "split", "A", "B", "C", ...FIELDS], ...lines]));
  }

  // --- drawing
  function draw() {
    if (!plots.clientWidth) return;
    const wide = map.parentNode.clientWidth,
      side = Math.min(wide - 32, 400),
      left = (wide - side) / 2,
      tall = side * Math.sqrt(0.75),
      low = TOP + tall;
    const width = profile.parentNode.clientWidth,
      height = plots.clientWidth < 620 ? 210 : low;
    const text = (kind, x, y, content, anchor = "middle") =>
      s("text", { class: kind, x, y, "text-anchor": anchor }, content);
    const line = (kind, d, more) => s("path", { class: kind, d, "fill-rule": "evenodd", ...more });
    figure.setAttribute("style", look(methods[chosen]).style);
    xy = ([, b, c]) => [left + (side * (b + c / 2)) / n, low - (tall * c) / n];
    resize(map, wide, low + 64);
    const corners = [walk[0], walk[n], walk[2 * n]].map((i) => xy(places[i])),
      rim = `M${corners.join("L")}Z`,
      bands = levels[split],
      step = side / (bands.length - 1);
    ground.replaceChildren(
      line("lmc-shade", rim),
      s(
        "g",
        { transform: `translate(${left} ${low}) scale(${side / 1000} ${side / -1000})` },
        ...now().regions.map((d) => line("lmc-shade", d)),
      ),
      line("lmc-base", rim),
      ...bands
        .slice(1)
        .map((_, k) =>
          line("lmc-shade", `M${left + step * k} ${low + 34}H${left + side}v8H${left + step * k}Z`),
        ),
      ...bands.flatMap((level, k) => (k % 2 ? [] : text("lmc-tick", left + step * k, low + 58, show(level)))),
      ...corners.map(([x, y], k) => text("lmc-end", x, y + (k < 2 ? 20 : -9), "ABC"[k])),
    );

    const [bottom, top] = range(surfaces.flatMap((row) => row[split].loss)),
      steps = walk.map((_, t) => t);
    X = scale(0, 3 * n, LEFT, width - HERE);
    Y = scale(bottom, top, height - BOTTOM, TOP + 6);
    resize(profile, width, height);
    const path = (f) =>
      points(
        steps.map(X),
        walk.map((i) => Y(f(i))),
      );
    drawn.replaceChildren(
      s(
        "text",
        { class: "lmc-name", x: 0, y: 13 },
        splits[split] || "Loss",
        s("tspan", {}, `${splits[split] && " loss"}, nats, around the triangle`),
      ),
      ...ticks(bottom, top, 4).flatMap(([value, label]) => [
        line("lmc-grid", `M${LEFT - 4} ${Y(value)}H${width}`),
        text("lmc-tick", LEFT - 8, Y(value) + 4, label, "end"),
      ]),
      ...[..."ABCA"].map((name, k) => text("lmc-end", X(k * n), height - 7, name)),
      text("lmc-end", width - 18, height - 7, "point"),
      line(
        "lmc-base",
        path((i) => now().loss[i] - now().excess[i]),
      ),
      ...methods.map((method, m) =>
        s(
          "g",
          look(method),
          line(
            "lmc-line",
            path((i) => now(m).loss[i]),
            { "stroke-width": m === chosen ? 3 : 2, "stroke-dasharray": dashes(method, 2) },
          ),
        ),
      ),
    );
    [buttons.childNodes, rows].forEach((list, k) =>
      list.forEach((node, i) =>
        k
          ? node.classList.toggle("lmc-chosen", i === chosen)
          : node.setAttribute("aria-pressed", i === chosen),
      ),
    );
    mark();
  }
  function mark() {
    if (!xy) return; // a reader may be faster than the first drawing
    const { loss, excess, accuracy, answers, sure } = now(),
      t = walk.indexOf(at),
      x = Number(profile.getAttribute("width")) - 18,
      y = Y(loss[at]);
    probe.setAttribute("transform", `translate(${xy(places[at])})`);
    spot.replaceChildren(
      s("path", { class: "lmc-excess", d: `M${x - 5} ${Y(loss[at] - excess[at])}h10m-5 0V${y}` }),
      ...methods.map((method, m) =>
        s(
          "g",
          look(method),
          s("circle", { class: "lmc-dot", cx: x, cy: Y(now(m).loss[at]), r: m === chosen ? 6 : 4 }),
        ),
      ),
      ...(t < 0 ? [] : [s("circle", { class: "lmc-handle", cx: X(t), cy: y, r: 7 })]),
    );
    says.textContent = `At ${mix(at)} the loss of ${methods[chosen].name} is ${show(loss[at])} nats, ${show(Math.abs(excess[at]))} ${excess[at] < 0 ? "below" : "above"} the mixture of the three networks’ losses; its accuracy is ${show(accuracy[at])}.`;
    for (const [node, value] of [
      [map, at],
      [profile, Math.max(0, t)],
    ]) {
      node.setAttribute("aria-valuenow", value);
      node.setAttribute("aria-valuetext", `${mix(at)}, loss ${show(loss[at])}`);
    }
    rows.forEach((row, m) => {
      const one = now(m),
        text = {
          barrier: show(one.barrier),
          at:
            one.barrier > 0 ? ` at ${places[one.at].map((x) => Math.round((100 * x) / n)).join(":")} %` : "",
        };
      for (const cell of row.querySelectorAll("[data-field]"))
        cell.textContent = text[cell.dataset.field] ?? show(one[cell.dataset.field][at]);
    });
    strip.hidden = !answers;
    if (!answers) return;
    const set = images[split],
      cards = set.truth.map((_, i) => card(set, i)),
      right = set.truth.filter((one, i) => answers[at][i] === one);
    cards.forEach(({ fill }, i) => fill(answers[at][i], sure[at][i]));
    strip.replaceChildren(
      h(
        "p",
        {},
        "What ",
        h("b", { class: "lmc-method" }, methods[chosen].name),
        ` answers there: ${right.length} of ${cards.length} right`,
      ),
      h("ul", {}, ...cards.map(({ node }) => node)),
      h("p", { class: "lmc-note" }, set.why),
    );
  }

  return onWidth(plots, draw);
}

export default { render };
