// Two numbers, a marker, and what the networks on each path answer: they are run here, from weights of eight bits.

const LEFT = 40,
  RIGHT = 14,
  TOP = 34,
  BOTTOM = 26,
  PLUS = 10,
  EQUALS = 11;

/** Weights by name, each a row-major list of numbers. @typedef {Record<string, Float32Array>} Weights */

/** @returns {Weights} */
const unpack = (shapes, { codes, steps }) => {
  const bytes = Int8Array.from(atob(codes), (letter) => letter.charCodeAt(0));
  let from = 0;
  return Object.fromEntries(
    Object.entries(shapes).map(([name, shape], i) => {
      const size = shape.reduce((a, b) => a * b, 1);
      return [name, Float32Array.from(bytes.subarray(from, (from += size)), (code) => code * steps[i])];
    }),
  );
};

/** The average of two networks, weight by weight. @returns {Weights} */
const between = (a, b, lambda) =>
  Object.fromEntries(
    Object.keys(a).map((name) => [name, a[name].map((x, i) => x + lambda * (b[name][i] - x))]),
  );

const dot = (x, w, at = 0) => {
  let sum = 0;
  for (let i = 0; i < x.length; i++) sum += x[i] * w[at + i];
  return sum;
};
// What a layer writes: each row of the weights reads the whole input.
const layer = (w, x, bias) =>
  Float32Array.from({ length: w.length / x.length }, (_, i) => dot(x, w, i * x.length) + (bias?.[i] ?? 0));
const norm = (x) => {
  const mean = x.reduce((a, b) => a + b, 0) / x.length;
  const spread = Math.sqrt(x.reduce((sum, v) => sum + (v - mean) ** 2, 0) / x.length + 1e-5);
  return x.map((v) => (v - mean) / spread);
};
const gelu = (x) => 0.5 * x * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3)));

// The logits behind the last token.
const answerTo = (w, tokens, { blocks, heads }) => {
  const width = w["0.o.bias"].length,
    d = width / heads;
  const stream = tokens.map((token, t) =>
    Float32Array.from({ length: width }, (_, i) => w.wte[token * width + i] + w.wpe[t * width + i]),
  );
  for (let block = 0; block < blocks; block++) {
    const own = (name) => w[`${block}.${name}`];
    const read = stream.map(norm);
    const [q, k, v] = ["q", "k", "v"].map((part) =>
      read.map((x) => layer(own(`${part}.weight`), x, own(`${part}.bias`))),
    );
    stream.forEach((x, t) => {
      const seen = new Float32Array(width);
      for (let head = 0; head < width; head += d) {
        const part = (list) => list.subarray(head, head + d);
        const scores = k.slice(0, t + 1).map((key) => Math.exp(dot(part(q[t]), part(key))));
        const total = scores.reduce((a, b) => a + b, 0);
        scores.forEach((score, s) => {
          for (let i = head; i < head + d; i++) seen[i] += (score / total) * v[s][i];
        });
      }
      for (let i = 0; i < width; i++) x[i] += own("o.bias")[i];
      seen.forEach((value, j) => {
        for (let i = 0; i < width; i++) x[i] += value * own("o.weight")[j * width + i];
      });
      const hidden = layer(own("fc.weight"), norm(x), own("fc.bias")).map(gelu);
      layer(own("proj.weight"), hidden, own("proj.bias")).forEach((value, i) => (x[i] += value));
    });
  }
  return layer(w["head.weight"], norm(stream.at(-1)), w["head.bias"]);
};

const percent = (fraction) => `${place(Math.round(1000 * fraction) / 10)}\u00a0%`;

// What a network writes behind "47+38=", digit by digit from the last: as people read it.
const add = (w, [a, b], sizes) => {
  const tokens = [Math.floor(a / 10), a % 10, PLUS, Math.floor(b / 10), b % 10, EQUALS];
  for (let digit = 0; digit < 3; digit++) {
    const logits = answerTo(w, tokens, sizes);
    tokens.push(logits.indexOf(Math.max(...logits)));
  }
  const written = tokens.slice(-3).reverse();
  return written
    .map((token) => "0123456789+="[token])
    .join("")
    .replace(/^0{1,2}(?=\d)/, "");
};

function render({ model, el }) {
  /** @type {AdderState} */
  const state = JSON.parse(model.get("state"));
  const { lambdas, methods, sums, unseen, shapes, sizes } = state;
  const n = lambdas.length,
    [first, ...ends] = state.networks.map((network) => unpack(shapes, network));
  let at = (n - 1) / 2,
    own = sums[0],
    x = null,
    y = null;

  // --- elements
  const ground = s("g"),
    marks = s("g");
  const plot = s(
    "svg",
    {
      class: "lmc-panel",
      tabindex: 0,
      role: "slider",
      "aria-label": "λ, in the plot of the sums that are right",
      "aria-valuemin": 0,
      "aria-valuemax": 1,
      ...FOCUS,
    },
    ground,
    marks,
  );
  const slider = h("input", {
    type: "range",
    min: 0,
    max: n - 1,
    step: 1,
    "aria-label": "λ, the place between network A and network B",
    ...FOCUS,
  });
  const numbers = own.map((value, i) =>
    h("input", {
      type: "text",
      inputmode: "numeric",
      maxlength: 2,
      value,
      "aria-label": `${["first", "second"][i]} number, from 0 to 99`,
      ...FOCUS,
      oninput: ask,
      onfocus: () => numbers[i].select(),
    }),
  );
  const says = h("p", { class: "lmc-says" }),
    [crier, tell] = announcer(says);
  const row = (question) =>
    h("tr", {}, h("th", { scope: "row" }, ...question), ...methods.map((method) => h("td", look(method))));
  const typed = row([numbers[0], " + ", numbers[1], " ="]),
    others = sums.slice(1).map(([a, b]) => row([`${a} + ${b} =`]));
  const table = h(
    "table",
    {},
    h(
      "thead",
      {},
      h(
        "tr",
        {},
        h("th", { scope: "col" }, "ask"),
        ...methods.map((method) =>
          h("th", { scope: "col", ...look(method) }, swatch(method), " ", method.name),
        ),
      ),
    ),
    h("tbody", {}, typed, ...others),
  );
  const left = h("div", {}, plot, h("div", { class: "lmc-slide" }, slider), says);
  const body = h("div", { class: "lmc-plots" }, left, h("div", {}, table));
  frame(
    el,
    "adder",
    state,
    "Two networks that add",
    [],
    [
      ["Plot as SVG", () => save("adder.svg", "image/svg+xml", drawing([plot]))],
      ["Numbers as CSV", saveNumbers],
    ],
    body,
    crier,
  );

  // --- events
  const move = (to) => {
    if (to === at) return;
    at = to;
    mark();
  };
  slider.addEventListener("input", () => move(Number(slider.value)));
  onKeys(slider, () => at, n, move);
  onKeys(plot, () => at, n, move);
  onDrag(plot, (event) => {
    const box = plot.getBoundingClientRect();
    move(Math.round(clamp((event.clientX - box.left - LEFT) / (box.width - LEFT - RIGHT), 0, 1) * (n - 1)));
  });
  // Letters are dropped while they are typed; an empty field waits.
  function ask() {
    for (const input of numbers) input.value = input.value.replace(/\D/g, "");
    if (!numbers.every((input) => input.value)) return;
    own = [Number(numbers[0].value), Number(numbers[1].value)];
    mark();
    tell();
  }
  function saveNumbers() {
    const lines = lambdas.flatMap((lambda, i) => methods.map((m) => [m.name, lambda, m.right[i]]));
    save("adder.csv", "text/csv", csv([["method", "lambda", "right"], ...lines]));
  }

  // --- drawing
  function draw() {
    const width = left.clientWidth,
      height = 250;
    if (!width) return;
    resize(plot, width, height);
    x = scale(0, 1, LEFT, width - RIGHT);
    y = scale(0, 1, height - BOTTOM, TOP);
    const lines = [0, 0.25, 0.5, 0.75, 1].map((value) => [value, `${100 * value} %`]);
    const drawn = methods.map((method) => dense(lambdas.map(x), method.right.map(y)));
    const context = document.createElement("canvas").getContext("2d");
    context.font = `12px ${getComputedStyle(plot).fontFamily}`;
    const wanted = methods.map((method, i) => ({
      width: context.measureText(method.name).width + 4,
      line: drawn[i],
    }));
    const places = placeLabels(
      wanted,
      [],
      [[x(0.5) - 4, TOP, x(0.5) + 4, y(0)]],
      [LEFT, TOP, width, height - BOTTOM],
      16,
    );
    ground.replaceChildren(
      ...axes(
        width,
        height,
        x,
        y,
        lines,
        ["right", `of ${unseen.toLocaleString("en")} sums never seen`],
        "AB",
      ),
      ...methods.map((method, i) =>
        s(
          "g",
          look(method),
          s("path", {
            class: "lmc-line",
            d: points(
              drawn[i].map((p) => p[0]),
              drawn[i].map((p) => p[1]),
            ),
            "stroke-width": 2.5,
            "stroke-dasharray": dashes(method, 2.5),
          }),
          places[i] &&
            s(
              "text",
              { class: "lmc-label", x: places[i][0], y: places[i][1] + 4, "text-anchor": "middle" },
              method.name,
            ),
        ),
      ),
    );
    mark();
  }

  // The answers of each path to a row's question, marked by more than a colour.
  function fill(line, question, networks) {
    const truth = String(question[0] + question[1]);
    networks.forEach((network, i) => {
      const said = add(network, question, sizes),
        right = said === truth;
      const cell = line.children[i + 1];
      cell.classList.toggle("lmc-wrong", !right);
      cell.replaceChildren(
        h("span", {}, said),
        h("span", { class: "lmc-mark", "aria-hidden": "true" }, right ? "✓" : "✗"),
        h("span", { class: "lmc-hidden" }, right ? ", right" : ", wrong"),
      );
    });
  }

  function mark() {
    if (!x) return; // a reader may be faster than the first drawing
    const lambda = lambdas[at],
      px = x(lambda),
      where = `λ = ${place(lambda)}`;
    const networks = ends.map((end) => between(first, end, lambda));
    marks.replaceChildren(
      s("path", { class: "lmc-rule", d: `M${px} ${TOP - 4}V${y(0)}` }),
      ...methods.map((method) =>
        s("g", look(method), s("circle", { class: "lmc-handle", cx: px, cy: y(method.right[at]), r: 7 })),
      ),
    );
    const shares = methods.map((method) => `${method.name} ${percent(method.right[at])}`);
    says.textContent = `At ${where}, so many of the sums that neither network has seen are right: ${shares.join(", ")}.`;
    slider.value = at;
    for (const node of [slider, plot]) node.setAttribute("aria-valuetext", `${where}: ${shares.join(", ")}`);
    plot.setAttribute("aria-valuenow", lambda);
    fill(typed, own, networks);
    others.forEach((line, i) => fill(line, sums[i + 1], networks));
  }

  return onWidth(left, draw);
}

export default { render };
