// Loss and accuracy along a path for several methods; the marker sits on a measured lambda.

const PANELS = [
  { field: "loss", unit: "nats", barrier: true },
  { field: "accuracy", unit: "fraction right" },
];
const LEFT = 36,
  RIGHT = 14,
  TOP = 52,
  BOTTOM = 26,
  LINE = 14;

function render({ model, el }) {
  /** @type {CurvesState} */
  const state = JSON.parse(model.get("state"));
  const { lambdas, splits, methods, curves, images, texts } = state;
  const n = lambdas.length,
    group = uniqueGroup();
  const nearest = (lambda) =>
    lambdas.reduce((best, x, i) => (Math.abs(x - lambda) < Math.abs(lambdas[best] - lambda) ? i : best), 0);
  const on = methods.map(() => true);
  let at = nearest(0.5),
    split = 0,
    chosen = Math.max(
      0,
      methods.findIndex((m) => /vanilla/i.test(m.name)),
    );
  let domains = null,
    canvas = null,
    stop = () => {};

  // --- elements
  const panels = PANELS.map((panel) => ({
    ...{ width: 0, height: 0, x: null, y: null, lines: [], taken: [], named: [] }, // known once it is drawn
    ...panel,
    rule: s("g"),
    rows: s("g"),
    marks: s("g"),
    svg: s("svg", {
      class: "lmc-panel",
      tabindex: 0,
      role: "slider",
      "aria-label": `λ, in the plot of the ${panel.field}`,
      "aria-valuemin": 0,
      "aria-valuemax": 1,
      ...FOCUS,
    }),
  }));
  for (const panel of panels) panel.svg.append(panel.rule, panel.rows, panel.marks);
  const slider = h("input", {
    type: "range",
    min: 0,
    max: n - 1,
    step: 1,
    "aria-label": "λ, the place between network A and network B",
    ...FOCUS,
  });
  const buttons = toggles(methods, "methods shown", toggle);
  buttons.classList.add("lmc-checks");
  const says = h("p", { class: "lmc-says" }),
    [crier, tell] = announcer(says);
  const cell = (field) => h("td", { "data-field": field });
  const rows = methods.map((method, i) =>
    h(
      "tr",
      { "data-method": method.name, ...look(method), onclick: () => choose(i) },
      h(
        "th",
        { scope: "row" },
        radio(`${group}m`, i === chosen, () => choose(i), swatch(method), h("span", {}, method.name)),
      ),
      ...["loss", "excess", "accuracy"].map(cell),
      h(
        "td",
        {},
        h("span", { "data-field": "barrier" }),
        h("small", {}, " at λ = ", h("span", { "data-field": "at" })),
      ),
    ),
  );
  const table = h(
    "table",
    {},
    h(
      "thead",
      {},
      h(
        "tr",
        {},
        h("th", { scope: "col" }, h("span", { class: "lmc-hidden" }, "method")),
        ...["loss", "excess", "accuracy", "barrier"].map((name) => h("th", { scope: "col" }, name)),
      ),
    ),
    h("tbody", {}, ...rows),
  );
  const strip = h("div", { class: "lmc-strip" }),
    told = texts || images.some(Boolean);
  const [loss, accuracy] = panels.map((panel) => h("div", { "data-area": panel.field }, panel.svg));
  const body = h(
    "div",
    { class: told ? "lmc-body lmc-told" : "lmc-body" },
    ...[loss, h("div", { class: "lmc-slide" }, slider), says, strip, accuracy],
  );
  const figure = frame(
    el,
    "curves",
    state,
    "Loss and accuracy along a path",
    [
      buttons,
      splits.length > 1
        ? radios(splits, "data split", `${group}s`, (i) => {
            split = i;
            update(true);
            tell();
          })
        : null,
    ],
    [
      ["Plots as SVG", () => save("curves.svg", "image/svg+xml", drawing(panels.map((p) => p.svg)))],
      ["Numbers as CSV", saveNumbers],
    ],
    body,
    table,
    crier,
  );

  // --- events
  const move = (to) => {
    if (to !== at) {
      at = to;
      mark();
    }
  };
  slider.addEventListener("input", () => move(Number(slider.value)));
  onKeys(slider, () => at, n, move);
  for (const panel of panels) {
    onKeys(panel.svg, () => at, n, move);
    onDrag(panel.svg, (event) => {
      const box = panel.svg.getBoundingClientRect();
      move(nearest((event.clientX - box.left - LEFT) / (box.width - LEFT - RIGHT)));
    });
  }
  function toggle(i) {
    if (on[i] && on.filter(Boolean).length === 1) {
      update(false); // an animation that still runs would overwrite the text
      says.textContent = "One method stays: switch another one on first.";
      tell();
      return;
    }
    on[i] = !on[i];
    if (!on[chosen]) chosen = on.indexOf(true);
    update(true);
  }
  function choose(i) {
    if (i === chosen && on[i]) return;
    chosen = i;
    on[i] = true;
    update(true);
    tell();
  }
  function saveNumbers() {
    const lines = [["method", "split", "lambda", "loss", "excess", "accuracy"]];
    methods.forEach((method, m) =>
      splits.forEach((name, k) =>
        lambdas.forEach((lambda, i) =>
          lines.push([
            method.name,
            name,
            lambda,
            ...["loss", "excess", "accuracy"].map((field) => curves[m][k][field][i]),
          ]),
        ),
      ),
    );
    save("curves.csv", "text/csv", csv(lines));
  }

  // --- drawing
  const curve = (m) => curves[m][split];
  const shown = () =>
    methods
      .map((_, i) => i)
      .filter((i) => on[i] && i !== chosen)
      .concat(chosen); // the chosen one on top
  const straight = (values, i) => values[0] + (values[n - 1] - values[0]) * lambdas[i];

  // One axis for all splits, so that switching between them compares; fewer methods may zoom in.
  const domain = (panel) => {
    const [low, high] = range(shown().flatMap((m) => curves[m].flatMap((c) => c[panel.field])));
    const inside = panel.height - TOP - BOTTOM,
      head = panel.barrier ? 34 : 12; // pixels above the peak, for its label
    return [low, low + ((high - low) * inside) / (inside - head)];
  };

  function size() {
    const wide = body.clientWidth >= 620;
    for (const panel of panels) {
      panel.width = panel.svg.parentNode.clientWidth;
      panel.height = wide && !told ? clamp(0.34 * body.clientWidth, 250, 310) : panel.barrier ? 230 : 186;
      resize(panel.svg, panel.width, panel.height);
      panel.x = scale(0, 1, LEFT, panel.width - RIGHT);
    }
    if (texts) strip.style.setProperty("--room", `${tallest()}px`);
  }

  function draw(panel, [low, high], settled) {
    const { width, height, field, x, rows: layer } = panel;
    const y = (panel.y = scale(low, high, height - BOTTOM, TOP));
    const xs = lambdas.map(x),
      visible = shown();
    const name = splits.length > 1 ? `${splits[split]} ${field}` : field;
    const parts = axes(
      width,
      height,
      x,
      y,
      ticks(low, high, height > 230 ? 5 : 4),
      [name, panel.unit],
      ["A", methods[chosen].end],
    );
    const own = curve(chosen)[field],
      base = lambdas.map((_, i) => y(straight(own, i)));
    parts.push(
      s("path", {
        ...look(methods[chosen], "lmc-area"),
        d: `${points(xs, own.map(y))}L${xs[n - 1]} ${base[n - 1]}L${xs[0]} ${base[0]}Z`,
      }),
    );
    parts.push(s("path", { class: "lmc-base", d: points([xs[0], xs[n - 1]], [base[0], base[n - 1]]) }));
    for (const m of visible) {
      const stroke = m === chosen ? 3 : 2,
        ys = curve(m)[field].map(y);
      parts.push(
        s(
          "g",
          look(methods[m]),
          s("path", {
            class: "lmc-line",
            d: points(xs, ys),
            "stroke-width": stroke,
            "stroke-dasharray": dashes(methods[m], stroke),
          }),
          ...[0, n - 1].map((i) => s("circle", { class: "lmc-dot", cx: xs[i], cy: ys[i], r: 4 })),
        ),
      );
    }
    const taken = [],
      thin = [dense(xs, base)];
    panel.named = [];
    const { barrier, barrier_at } = curve(chosen);
    if (panel.barrier && barrier > 0) {
      const i = nearest(barrier_at),
        top = y(own[i]),
        text = `barrier ${show(barrier)}`,
        half = 3.6 * text.length;
      const tx = clamp(xs[i], LEFT + half, width - half);
      parts.push(
        s(
          "g",
          look(methods[chosen]),
          s("path", { class: "lmc-height", d: `M${xs[i]} ${base[i]}V${top}` }),
          s("path", { class: "lmc-peak", d: `M${xs[i] - 5} ${top - 20}h10l-5 7z` }),
          s("text", { class: "lmc-label lmc-strong", x: tx, y: top - 25, "text-anchor": "middle" }, text),
        ),
      );
      taken.push([tx - half, top - 38, tx + half, top - 8]);
      thin.push(Array.from({ length: 20 }, (_, k) => [xs[i], top + (k / 20) * (base[i] - top)]));
    }
    if (settled) parts.push(...labels(panel, visible, xs, thin, taken));
    panel.lines = visible.flatMap((m) => dense(xs, curve(m)[field].map(y)));
    panel.taken = taken;
    layer.replaceChildren(...parts);
  }

  // At most one label for each method: near its line, clear of the others.
  function labels(panel, visible, xs, thin, taken) {
    const context = (canvas ??= document.createElement("canvas").getContext("2d"));
    context.font = `12px ${getComputedStyle(figure).fontFamily}`;
    const wanted = visible.map((m) => ({
      m,
      width: context.measureText(methods[m].name).width + 4,
      line: dense(xs, curve(m)[panel.field].map(panel.y)),
    }));
    const room = [LEFT, TOP - 14, panel.width, panel.height - BOTTOM];
    return placeLabels(wanted, thin, [...taken, handle(panel)], room, LINE + 2).flatMap((place, i) => {
      if (!place) return [];
      const { m } = wanted[i],
        [x, y, box] = place;
      const node = s(
        "text",
        {
          ...look(methods[m], "lmc-label lmc-tag"),
          ...{ x, y: y + 4, "text-anchor": "middle" },
        },
        methods[m].name,
      );
      taken.push(box);
      panel.named.push({ node, box });
      return [node];
    });
  }

  // What the handle covers, with its grips.
  function handle(panel) {
    const px = panel.x(lambdas[at]),
      py = panel.y(curve(chosen)[panel.field][at]);
    return [px - 19, py - 11, px + 19, py + 11];
  }

  // Place of the number for the excess: beside its bracket, clear of other lines and labels if possible; above or below a short one.
  function beside(panel, px, top, low, width) {
    const floor = panel.height - BOTTOM - 9; // below are the names of the ends
    if (Math.abs(low - top) < 30)
      return [
        clamp(px, LEFT + width / 2, panel.width - width / 2),
        top > low && top + 21 <= floor ? top + 21 : Math.min(top, low) - 19,
      ];
    const near = px < panel.width / 2 ? 1 : -1;
    let best,
      least = Infinity;
    for (const t of [0.5, 0.35, 0.65, 0.2, 0.8])
      for (const side of [near, -near]) {
        const x = px + side * (width / 2 + 8),
          y = low + (top - low) * t;
        const box = [x - width / 2 - 3, y - 9, x + width / 2 + 3, y + 9];
        if (box[0] < LEFT || box[2] > panel.width || y > floor) continue;
        const cost =
          9 * panel.taken.filter((other) => meet(box, other)).length +
          panel.lines.filter(([qx, qy]) => meet(box, [qx, qy, qx, qy])).length / 4;
        if (cost < least) [best, least] = [[x, y], cost];
      }
    return best;
  }

  function mark() {
    if (!domains) return; // a reader may be faster than the first drawing
    const lambda = lambdas[at],
      where = `λ = ${place(lambda)}`,
      method = methods[chosen],
      now = curve(chosen);
    for (const panel of panels) {
      const { x, y, width, height, field } = panel,
        px = x(lambda),
        own = now[field];
      const top = y(own[at]),
        low = y(straight(own, at)),
        delta = panel.barrier ? now.excess[at] : own[at] - straight(own, at);
      const text = signed(delta),
        half = 3.75 * text.length,
        [tx, ty] = beside(panel, px, top, low, 2 * half);
      for (const { node, box } of panel.named) {
        const met = [handle(panel), [tx - half, ty - 9, tx + half, ty + 9]].some((other) => meet(box, other));
        node.style.visibility = met ? "hidden" : "";
      }
      panel.rule.replaceChildren(
        s("path", { class: "lmc-rule", d: `M${px} ${TOP - 14}V${height - BOTTOM}` }),
        s(
          "text",
          { class: "lmc-where", x: clamp(px, LEFT + 14, width - 28), y: TOP - 18, "text-anchor": "middle" },
          where,
        ),
      );
      panel.marks.replaceChildren(
        s("path", { ...look(method, "lmc-excess"), d: `M${px - 5} ${low}h10M${px} ${low}V${top}` }),
        ...shown()
          .slice(0, -1)
          .map((m) =>
            s(
              "g",
              look(methods[m]),
              s("circle", { class: "lmc-dot", cx: px, cy: y(curve(m)[field][at]), r: 4 }),
            ),
          ),
        s(
          "g",
          look(method),
          s("text", { class: "lmc-label lmc-strong", x: tx, y: ty + 4, "text-anchor": "middle" }, text),
          s("circle", { class: "lmc-handle", cx: px, cy: top, r: 8 }),
          s("path", {
            class: "lmc-grip",
            d: `M${px - 13} ${top - 4}l-4 4l4 4M${px + 13} ${top - 4}l4 4l-4 4`,
          }),
        ),
      );
      panel.svg.setAttribute("aria-valuenow", lambda);
      panel.svg.setAttribute("aria-valuetext", `${where}, ${field} ${show(own[at])}`);
    }
    slider.value = at;
    slider.setAttribute("aria-valuetext", `${where}, loss ${show(now.loss[at])}`);
    rows.forEach((row, m) => {
      const c = curve(m),
        text = { loss: c.loss[at], excess: c.excess[at], accuracy: c.accuracy[at], barrier: c.barrier };
      for (const node of row.querySelectorAll("[data-field]"))
        node.textContent = node.dataset.field === "at" ? place(c.barrier_at) : show(text[node.dataset.field]);
      row.querySelector("small").style.visibility = c.barrier > 0 ? "" : "hidden";
    });
    const excess = now.excess[at];
    const level = excess === 0 ? "on" : `${show(Math.abs(excess))} ${excess > 0 ? "above" : "below"}`;
    says.textContent = `At ${where} ${method.name} has a loss of ${show(now.loss[at])} nats, ${level} the straight line, and an accuracy of ${show(now.accuracy[at])}.`;
    answer();
  }

  // --- sampled texts
  const whose = () =>
    h("b", { class: "lmc-method", style: look(methods[chosen]).style }, methods[chosen].name);
  const page = (tokens, nats) =>
    h(
      "p",
      { class: "lmc-text", ...FOCUS },
      h("b", {}, texts.prompt),
      ...tokens.map((token, k) => h("span", nats ? { style: `--nats:${nats[k]}` } : {}, token)),
    );
  // The height of the longest text: all have its room, so that nothing below them moves.
  function tallest() {
    const pages = texts.written.flatMap((by) => by?.tokens ?? []).map((tokens) => page(tokens));
    const pile = h("div", { class: "lmc-pile" }, ...pages);
    strip.append(pile);
    const heights = pages.map((one) => one.offsetHeight);
    pile.remove();
    return Math.max(0, ...heights);
  }
  function write() {
    const written = texts.written[chosen];
    strip.replaceChildren(
      h(
        "p",
        {},
        "What ",
        whose(),
        written ? ` writes at λ = ${place(lambdas[at])}` : " writes was not kept.",
      ),
    );
    if (!written) return;
    const text = page(written.tokens[at], written.nats[at]);
    strip.append(
      text,
      h(
        "p",
        { class: "lmc-note" },
        "The prompt is bold. The stronger the wash behind a token, the less the network expected it. Chance is the same at every λ: only the network changes.",
      ),
    );
    if (text.scrollHeight > text.clientHeight) text.tabIndex = 0; // keys scroll it
  }

  // --- predictions for single images
  let cards = [],
    cardsOf = null;
  function answer() {
    if (texts) return write();
    const set = images[split],
      { answers, sure } = curve(chosen);
    strip.hidden = !set;
    if (!set) return;
    if (cardsOf !== set) {
      cardsOf = set;
      cards = set.truth.map((truth, i) => {
        const tape = s("path"),
          spot = s("path", { class: "lmc-spot" });
        const under = s(
          "svg",
          { class: "lmc-tape", viewBox: `0 0 ${n} 6`, preserveAspectRatio: "none", "aria-hidden": "true" },
          tape,
          spot,
        );
        return { truth, tape, spot, ...card(set, i, under) };
      });
      strip.replaceChildren(
        h("p", {}),
        h("ul", {}, ...cards.map((one) => one.node)),
        h("p", { class: "lmc-note" }),
      );
    }
    const [heading, list, note] = strip.children;
    list.hidden = note.hidden = !answers;
    heading.replaceChildren(
      "What ",
      whose(),
      answers
        ? ` answers at λ = ${place(lambdas[at])}: ${cards.filter((c, i) => answers[at][i] === c.truth).length} of ${cards.length} right`
        : " answers was not kept.",
    );
    if (!answers) return;
    note.textContent = `${set.why} The line under each runs from A to B, thick where the answer is right.`;
    cards.forEach((one, i) => {
      one.fill(answers[at][i], sure[at][i]);
      one.tape.setAttribute(
        "d",
        lambdas
          .map((_, k) => (answers[k][i] === one.truth ? `M${k} 1h1v4h-1z` : `M${k} 2.7h1v.6h-1z`))
          .join(""),
      );
      one.spot.setAttribute("d", `M${at} 0h1v6h-1z`);
    });
  }

  function update(animate) {
    if (!body.clientWidth) return;
    if (!domains) size();
    [...buttons.children].forEach((button, i) => button.setAttribute("aria-pressed", String(on[i])));
    rows.forEach((row, i) => {
      row.classList.toggle("lmc-off", !on[i]);
      row.classList.toggle("lmc-chosen", i === chosen);
      row.querySelector("input").checked = i === chosen;
    });
    figure.setAttribute("style", look(methods[chosen]).style);
    stop();
    const target = panels.flatMap(domain);
    stop = tween(animate && domains ? domains : target, target, (d, settled) => {
      domains = d;
      panels.forEach((panel, i) => draw(panel, d.slice(2 * i, 2 * i + 2), settled));
      mark();
    });
  }

  const unwatch = onWidth(body, () => {
    domains = null; // measured again
    update(false);
  });
  return () => {
    stop();
    unwatch();
  };
}

export default { render };
