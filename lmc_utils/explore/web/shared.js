// Helpers of all figures. Python joins this file with that of one kind of figure: no imports, one scope.

const element =
  (space) =>
  (tag, attributes = {}, ...children) => {
    const node = space ? document.createElementNS(space, tag) : document.createElement(tag);
    for (const [key, value] of Object.entries(attributes)) {
      if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
      else if (value != null) node.setAttribute(key, value);
    }
    node.append(...children.filter((child) => child != null));
    return node;
  };
const h = element(),
  s = element("http://www.w3.org/2000/svg");

// Without this mark, JupyterLab's command mode takes the arrow keys of the focused element.
const FOCUS = { "data-lm-suppress-shortcuts": "true" };

const clamp = (x, low, high) => Math.min(high, Math.max(low, x));

// Three significant digits, at most five decimals: the rule of figure.py's show().
const show = (x) => {
  if (x === 0) return "0";
  const text = x.toFixed(clamp(2 - Math.floor(Math.log10(Math.abs(x))), 0, 5));
  return Number(text) === 0 ? "0" : text.replace("-", "−");
};
// The same for numbers that may be tiny, as figure.py's power(): 3·10⁻¹⁴.
const power = (x) =>
  x === 0 || Math.abs(x) >= 1e-4
    ? show(x)
    : x
        .toExponential(0)
        .replace("-", x < 0 ? "−" : "-")
        .replace(
          /e(-\d+)/,
          (_, e) => "·10" + [...e].map((c) => "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"["-0123456789".indexOf(c)]).join(""),
        );
const place = (lambda) => String(Number(lambda.toFixed(3)));
const signed = (x) => (x > 0 ? "+" : "") + show(x);

const scale = (d0, d1, r0, r1) => (x) => r0 + ((x - d0) / (d1 - d0)) * (r1 - r0);

// Round numbers in [low, high], about `count` of them, as texts with as many decimals as their step needs.
const ticks = (low, high, count) => {
  const raw = (high - low) / count,
    power = 10 ** Math.floor(Math.log10(raw));
  const step = power * [1, 2, 5, 10].find((m) => m * power >= raw * 0.999);
  const places = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
  const first = Math.ceil(low / step - 1e-6),
    last = Math.floor(high / step + 1e-6);
  return Array.from({ length: last - first + 1 }, (_, i) => [
    (first + i) * step,
    ((first + i) * step).toFixed(places),
  ]);
};

const points = (xs, ys) => xs.map((x, i) => `${i ? "L" : "M"}${x.toFixed(1)} ${ys[i].toFixed(1)}`).join("");

// The action of each key, the same in all figures. Keys with modifiers belong to the browser.
const KEYS = {
  ArrowRight: { right: 1 },
  ArrowLeft: { right: -1 },
  ArrowUp: { up: 1 },
  ArrowDown: { up: -1 },
  PageUp: { page: 1 },
  PageDown: { page: -1 },
  Home: { end: -1 },
  End: { end: 1 },
};
const onPress = (node, move) =>
  node.addEventListener("keydown", (event) => {
    if (!(event.key in KEYS) || event.ctrlKey || event.altKey || event.metaKey) return;
    event.preventDefault();
    event.stopPropagation();
    move({ right: 0, up: 0, page: 0, end: 0, fast: event.shiftKey, ...KEYS[event.key] });
  });

// The index that a key press selects in a row of n places.
const stepTo = ({ right, up, page, end }, at, n) =>
  clamp(at + right + up + page * Math.max(1, Math.round((n - 1) / 5)) + end * n, 0, n - 1);
const onKeys = (node, place, n, move) => onPress(node, (press) => move(stepTo(press, place(), n)));

// Pointer anywhere in a node: the mouse moves at once; a finger once it goes sideways, or taps (up and down scrolls the page).
// A finger on the grip moves at once, too.
const onDrag = (node, move, grip) => {
  grip?.addEventListener("touchstart", (event) => event.preventDefault(), { passive: false });
  let start = null,
    going = false;
  const follow = (event) => {
    node.setPointerCapture(event.pointerId);
    move(event);
  };
  node.addEventListener("pointerdown", (event) => {
    if (event.button) return;
    start = event;
    going = event.pointerType !== "touch" || grip?.contains(event.target);
    node.focus({ preventScroll: true });
    if (going) follow(event);
    event.preventDefault();
  });
  node.addEventListener("pointermove", (event) => {
    if (!event.buttons) start = null; // let go outside
    if (!start) return;
    going ||= Math.abs(event.clientX - start.clientX) > Math.max(4, Math.abs(event.clientY - start.clientY));
    if (going) follow(event);
  });
  node.addEventListener("pointerup", (event) => {
    if (start) move(event);
    start = null;
  });
  node.addEventListener("pointercancel", () => (start = null));
};

const resize = (svg, width, height) => {
  for (const [key, value] of Object.entries({ width, height, viewBox: `0 0 ${width} ${height}` }))
    svg.setAttribute(key, value);
};

// Name, unit, grid lines and numbers of a plot over lambda in [0, 1], with the names of the end points below.
const axes = (width, height, x, y, lines, [name, unit], ends) => {
  const text = (content, tx, ty, kind = "lmc-tick", anchor = "middle") =>
    s("text", { class: kind, x: tx, y: ty, "text-anchor": anchor }, content);
  const left = x(0),
    low = height - 7;
  return [
    s(
      "text",
      { class: "lmc-name", x: 0, y: 13 },
      name[0].toUpperCase() + name.slice(1),
      s("tspan", {}, ` ${unit}`),
    ),
    ...lines.flatMap(([value, label]) => [
      s("path", { class: "lmc-grid", d: `M${left - 4} ${y(value)}H${width}` }),
      text(label, left - 8, y(value) + 4, "lmc-tick", "end"),
    ]),
    ...[0.25, 0.5, 0.75].map((value) => text(value, x(value), low)),
    text(ends[0], left, low, "lmc-end"),
    text(ends[1], Math.min(x(1), width - 14), low, "lmc-end"),
  ];
};

// The least and the largest value on an axis: from zero where the values come near it, otherwise from a little below them.
const range = (values) => {
  const low = Math.min(...values),
    high = Math.max(...values),
    span = high - low || Math.abs(high) || 1;
  return [low < 0.4 * high ? 0 : Math.max(0, low - 0.12 * span), high];
};

// From one list of numbers to another; at once for readers who prefer no motion. Returns how to stop it.
const tween = (from, to, draw, time = 260) => {
  if (matchMedia("(prefers-reduced-motion: reduce)").matches || from.every((x, i) => x === to[i])) {
    draw(to, true);
    return () => {};
  }
  let frame, began;
  const step = (now) => {
    began ??= now;
    const t = Math.min(1, (now - began) / time),
      eased = t * (2 - t);
    draw(t < 1 ? from.map((x, i) => x + (to[i] - x) * eased) : to, t === 1);
    if (t < 1) frame = requestAnimationFrame(step);
  };
  frame = requestAnimationFrame(step);
  return () => cancelAnimationFrame(frame);
};

// The style of a method: its class and colours, and a swatch of its line.
const look = (method, more = "") => ({
  class: `lmc-method ${more}`,
  style: `--light:${method.color};--dark:${method.dark}`,
});
const dashes = (method, width) => (method.dash.length ? method.dash.map((d) => d * width).join(" ") : null);
const swatch = (method) =>
  s(
    "svg",
    { class: "lmc-swatch", width: 28, height: 10, "aria-hidden": "true" },
    s("path", { d: "M1 5H27", "stroke-width": 2.5, "stroke-dasharray": dashes(method, 2.5) }),
  );

// Buttons that switch methods on and off.
const toggles = (methods, label, toggle) =>
  h(
    "div",
    { class: "lmc-toggles", role: "group", "aria-label": label },
    ...methods.map((method, i) =>
      h(
        "button",
        {
          type: "button",
          "data-method": method.name,
          "aria-pressed": "true",
          ...look(method),
          ...FOCUS,
          onclick: () => toggle(i),
        },
        h("span", {}, swatch(method), method.name),
      ),
    ),
  );

const radio = (group, checked, choose, ...content) => {
  const input = h("input", { type: "radio", name: group, ...FOCUS, onchange: choose });
  input.checked = checked;
  return h("label", {}, input, ...content);
};

// Radio buttons for the split of the data.
const radios = (names, label, group, choose) =>
  h(
    "div",
    { class: "lmc-radios", role: "radiogroup", "aria-label": label },
    ...names.map((name, i) => radio(group, !i, () => choose(i), h("span", {}, name))),
  );

const menu = (items) => {
  const node = h(
    "details",
    { class: "lmc-menu" },
    h("summary", { ...FOCUS }, "Save"),
    h(
      "div",
      {},
      ...items.map(([label, run]) =>
        h(
          "button",
          {
            type: "button",
            ...FOCUS,
            onclick: () => {
              run();
              node.open = false;
            },
          },
          label,
        ),
      ),
    ),
  );
  node.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    node.open = false;
    node.firstChild.focus();
  });
  node.addEventListener("focusout", (event) => {
    if (!node.contains(event.relatedTarget)) node.open = false;
  });
  return node;
};

// The frame of every figure: title, controls and the menu, its own parts, the caption. Returns the node in the page.
const frame = (el, kind, { title, caption }, name, controls, items, ...parts) => {
  const figure = h(
    "figure",
    { class: "lmc-figure tex2jax_ignore", "data-kind": kind, "aria-label": title || name },
    h(
      "div",
      { class: "lmc-head" },
      title ? h("p", { class: "lmc-title" }, title) : null,
      ...controls,
      menu(items),
    ),
    ...parts,
    h("figcaption", {}, caption),
  );
  el.replaceChildren(figure);
  return figure;
};

// Draws once the place has a width, and again when it gets another. Each figure begins with a task of its own: a page
// with many of them answers in between.
const onWidth = (place, draw) => {
  let drawn = 0;
  const watch = new ResizeObserver(() => {
    if (place.clientWidth === drawn) return;
    if (drawn) draw();
    else setTimeout(draw);
    drawn = place.clientWidth;
  });
  watch.observe(place);
  return () => watch.disconnect();
};

// For screen readers: a node, and how to tell there what `says` says. They hear the last of all told within half a second.
const announcer = (says) => {
  const node = h("p", { class: "lmc-hidden", "aria-live": "polite" });
  let timer;
  return [
    node,
    () => {
      clearTimeout(timer);
      timer = setTimeout(() => (node.textContent = says.textContent), 500);
    },
  ];
};

// A name for a group of radio buttons that no other figure in the page uses.
const uniqueGroup = () => `lmc${(window.lmcFigures = (window.lmcFigures ?? 0) + 1)}`;

const save = (name, type, text) => {
  const link = h("a", { href: URL.createObjectURL(new Blob([text], { type })), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
};

const csv = (rows) =>
  rows
    .map((row) =>
      row.map((cell) => (/[",\n]/.test(cell) ? `"${String(cell).replaceAll('"', '""')}"` : cell)).join(","),
    )
    .join("\r\n") + "\r\n";

// Drawings side by side in one SVG file, with the computed styles written into the elements.
const PAINT = [
  "fill",
  "fill-opacity",
  "stroke",
  "stroke-width",
  "stroke-opacity",
  "stroke-linejoin",
  "opacity",
  "paint-order",
  "font-family",
  "font-size",
  "font-weight",
  "text-anchor",
];
const drawing = (svgs) => {
  let width = 0,
    height = 0;
  const parts = svgs.map((svg) => {
    const copy = svg.cloneNode(true),
      from = [svg, ...svg.querySelectorAll("*")];
    [copy, ...copy.querySelectorAll("*")].forEach((node, i) => {
      const style = getComputedStyle(from[i]);
      node.setAttribute("style", PAINT.map((key) => `${key}:${style.getPropertyValue(key)}`).join(";"));
      for (const key of ["class", "tabindex", "role"]) node.removeAttribute(key);
    });
    copy.setAttribute("x", width);
    width += Number(svg.getAttribute("width")) + 16;
    height = Math.max(height, svg.getAttribute("height"));
    return copy;
  });
  const paper = getComputedStyle(svgs[0]).floodColor; // the style sheet leaves the colour of the paper there
  const all = s(
    "svg",
    {
      xmlns: "http://www.w3.org/2000/svg",
      width: width - 16,
      height,
      viewBox: `0 0 ${width - 16} ${height}`,
    },
    s("rect", { width: "100%", height: "100%", fill: paper }),
    ...parts,
  );
  return new XMLSerializer().serializeToString(all);
};

// A polyline with extra points between its corners.
const dense = (xs, ys) =>
  ys
    .slice(1)
    .flatMap((end, i) =>
      [0, 1, 2, 3].map((k) => [xs[i] + ((xs[i + 1] - xs[i]) * k) / 4, ys[i] + ((end - ys[i]) * k) / 4]),
    );

const meet = (a, b) => a[0] < b[2] && b[0] < a[2] && a[1] < b[3] && b[1] < a[3];

// Texts beside curves: for each label the place near its line that is clear of all lines, of other labels and of the `taken` boxes.
// labels: [{ width, line: [[x, y], ...] }], others: lines without a label; room: [x0, y0, x1, y1]. Returns [x, y] of each text's centre.
const PLACES = [
  [0, -1, 7],
  [0, 1, 7],
  [0, -1, 14],
  [0, 1, 14],
  [1, 0],
  [-1, 0],
  [1, -1],
  [-1, -1],
  [1, 1],
  [-1, 1],
];
const placeLabels = (labels, others, taken, room, height) => {
  const lines = [...labels.map((label) => label.line), ...others];
  const boxes = [...taken];
  return labels.map(({ width, line }, own) => {
    let best = null,
      least = Infinity;
    for (const [px, py] of line) {
      for (const [dx, dy, far] of PLACES) {
        const x = px + dx * (width / 2 + 8),
          y = py + dy * (height / 2 + (dx ? 2 : far));
        const box = [x - width / 2 - 2, y - height / 2 + 1, x + width / 2 + 2, y + height / 2 - 1];
        if (box[0] < room[0] || box[1] < room[1] || box[2] > room[2] || box[3] > room[3]) continue;
        let cost = 0.03 * Math.abs(x - (room[0] + room[2]) / 2) + (dx ? 3 : far - 7);
        for (const other of boxes) if (meet(box, other)) cost += 1000;
        const near = lines.map((points) =>
          Math.min(
            ...points.map(
              ([qx, qy]) => Math.max(box[0] - qx, 0, qx - box[2]) + Math.max(box[1] - qy, 0, qy - box[3]),
            ),
          ),
        );
        near.forEach((gap, l) => {
          if (gap === 0) cost += l < labels.length ? 200 : 60;
          else if (l !== own && l < labels.length) cost += 150 / (gap + 3) + (gap < near[own] ? 80 : 0);
        });
        if (cost < least) [best, least] = [[x, y, box], cost];
      }
    }
    if (!best) return null;
    boxes.push(best[2]);
    return best;
  });
};

// One image of a strip: its node, and a function that fills in an answer. `between` goes under the image.
const card = ({ truth, classes, sprite, shape }, i, ...between) => {
  const word = h("span"),
    mark = h("span", { class: "lmc-mark", "aria-hidden": "true" }),
    bar = h("i"),
    sure = h("span"),
    last = truth.length - 1 || 1;
  const node = h(
    "li",
    {},
    h("span", { class: "lmc-truth" }, classes[truth[i]]),
    h("span", {
      class: "lmc-image",
      style: `background-image:url(${sprite});background-size:${truth.length * 100}% 100%;background-position:${(100 * i) / last}% 0;aspect-ratio:${shape[1]}/${shape[0]}`,
    }),
    ...between,
    h("span", { class: "lmc-answer" }, mark, word),
    h("span", { class: "lmc-sure" }, h("span", { class: "lmc-bar" }, bar), sure),
  );
  const fill = (answer, probability) => {
    const right = answer === truth[i];
    node.classList.toggle("lmc-wrong", !right);
    mark.textContent = right ? "✓" : "✗";
    word.textContent = classes[answer];
    bar.style.width = `${100 * probability}%`;
    sure.textContent = `${Math.round(100 * probability)} %`;
  };
  return { node, fill };
};
