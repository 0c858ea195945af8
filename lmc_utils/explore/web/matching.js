// Correlations of units, with the columns in the order that B's units have by now, and the loss half way beside them.

const LEFT = 40,
  RIGHT = 14,
  TOP = 34,
  BOTTOM = 40;

function render({ model, el }) {
  /** @type {MatchingState} */
  const state = JSON.parse(model.get("state"));
  const { placed, orders, excess, likeness, image } = state;
  const steps = placed.length - 1,
    n = orders[0].length;
  let at = Math.round(steps / 2),
    x = null,
    y = null;

  // --- elements
  const canvas = h("canvas", { class: "lmc-matrix", width: n, height: n, "aria-hidden": "true" });
  const pixels = new Image();
  pixels.onload = paint;
  pixels.src = image;
  const ground = s("g"),
    marks = s("g");
  const plot = s(
    "svg",
    {
      class: "lmc-panel",
      tabindex: 0,
      role: "slider",
      "aria-label": "units in place, in the plot of the loss half way",
      "aria-valuemin": 0,
      "aria-valuemax": n,
      ...FOCUS,
    },
    ground,
    marks,
  );
  const slider = h("input", {
    type: "range",
    min: 0,
    max: steps,
    step: 1,
    "aria-label": "units of B that have the number of their partner",
    ...FOCUS,
  });
  const says = h("p", { class: "lmc-says" }),
    [crier, tell] = announcer(says);
  const left = h(
    "div",
    {},
    h("p", { class: "lmc-name" }, "Correlation of units"),
    canvas,
    h("p", { class: "lmc-note" }, "Units of A in rows, of B in columns. Blue: alike; orange: opposite."),
  );
  const right = h("div", {}, plot, h("div", { class: "lmc-slide" }, slider), says);
  frame(
    el,
    "matching",
    state,
    "A matching, carried out unit by unit",
    [],
    [
      ["Plot as SVG", () => save("matching.svg", "image/svg+xml", drawing([plot]))],
      ["Numbers as CSV", saveNumbers],
    ],
    h("div", { class: "lmc-plots" }, left, right),
    crier,
  );

  // --- events
  const move = (to) => {
    if (to === at) return;
    at = to;
    mark();
    tell();
  };
  slider.addEventListener("input", () => move(Number(slider.value)));
  onKeys(slider, () => at, steps + 1, move);
  onKeys(plot, () => at, steps + 1, move);
  onDrag(plot, (event) => {
    const box = plot.getBoundingClientRect();
    move(Math.round(clamp((event.clientX - box.left - LEFT) / (box.width - LEFT - RIGHT), 0, 1) * steps));
  });
  function saveNumbers() {
    const lines = placed.map((units, i) => [units, excess[i], likeness[i]]);
    save("matching.csv", "text/csv", csv([["placed", "excess", "likeness"], ...lines]));
  }

  // --- drawing
  function paint() {
    const ink = canvas.getContext("2d");
    ink.clearRect(0, 0, n, n);
    orders[at].forEach((unit, column) => ink.drawImage(pixels, unit, 0, 1, n, column, 0, 1, n));
  }

  function draw() {
    const width = right.clientWidth,
      height = 270;
    if (!width) return;
    resize(plot, width, height);
    x = scale(0, steps, LEFT, width - RIGHT);
    const [low, high] = [Math.min(0, ...excess), Math.max(...excess)];
    y = scale(low, high, height - BOTTOM, TOP);
    const text = (content, tx, ty, kind, anchor) =>
      s("text", { class: kind, x: tx, y: ty, "text-anchor": anchor }, content);
    const line = placed.map((_, i) => [x(i), y(excess[i])]);
    ground.replaceChildren(
      s("text", { class: "lmc-name", x: 0, y: 13 }, "Excess half way", s("tspan", {}, " nats")),
      ...ticks(low, high, 4).flatMap(([value, label]) => [
        s("path", { class: "lmc-grid", d: `M${LEFT - 4} ${y(value)}H${width}` }),
        text(label, LEFT - 8, y(value) + 4, "lmc-tick", "end"),
      ]),
      ...[0, steps / 2, steps].map((i) =>
        text(String(Math.round((i / steps) * n)), x(i), height - 23, "lmc-tick", "middle"),
      ),
      text("units of each layer in place", x(steps / 2), height - 5, "lmc-tick", "middle"),
      s("path", {
        class: "lmc-line",
        d: points(
          line.map((p) => p[0]),
          line.map((p) => p[1]),
        ),
        "stroke-width": 2.5,
      }),
    );
    mark();
  }

  function mark() {
    if (!x) return; // a reader may be faster than the first drawing
    if (pixels.complete) paint();
    marks.replaceChildren(
      s("path", { class: "lmc-rule", d: `M${x(at)} ${TOP - 4}V${y(Math.min(0, ...excess))}` }),
      s("circle", { class: "lmc-handle", cx: x(at), cy: y(excess[at]), r: 8 }),
    );
    const where = `${placed[at]} of ${n} units`;
    says.textContent = `With ${where} of each layer in place, the network half way is ${show(excess[at])} nats worse than its ends. Paired units correlate by ${show(likeness[at])} on average.`;
    slider.value = at;
    for (const node of [slider, plot])
      node.setAttribute("aria-valuetext", `${where}, excess ${show(excess[at])}`);
    plot.setAttribute("aria-valuenow", placed[at]);
  }

  return onWidth(right, draw);
}

export default { render };
