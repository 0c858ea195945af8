// The loss on the plane through three networks. The probe moves over measured networks only: a grid and two straight lines.

const LEGEND = 54,
  LEFT = 36,
  RIGHT = 14,
  TOP = 46,
  BOTTOM = 26; // above the plane; around the profile

function render({ model, el }) {
  /** @type {PlaneState} */
  const state = JSON.parse(model.get("state"));
  const {
    names,
    x,
    y,
    loss,
    corners,
    lambdas,
    paths,
    levels,
    colors,
    regions,
    images,
    ground: plane,
  } = state;
  const [origin, ...tips] = corners,
    far = (a, b) => Math.hypot(a[0] - b[0], a[1] - b[1]);
  /** @returns {[number, number]} */
  const inBoth = (find) => [find(x, 0), find(y, 1)]; // along x, then along y
  const grid = ([i, j]) => ({ t: j * x.length + i, xy: [x[i], y[j]], loss: loss[j][i] });
  const lines = paths.map(({ loss }, p) =>
    lambdas.map((l, t) => ({ p, t, xy: origin.map((o, k) => o + l * (tips[p][k] - o)), loss: loss[t] })),
  );
  const [low, high] = range(paths.flatMap((path) => path.loss));
  const n = lambdas.length,
    ends = (line) => [line[0], line[n - 1]];
  const closest = (list, value) =>
    list.reduce((best, one, i) => (Math.abs(one - value) < Math.abs(list[best] - value) ? i : best), 0);
  let chosen = 0,
    now = lines[0][Math.round(0.3 * n)],
    to,
    P,
    Q,
    stop = () => {};

  // --- elements
  const handle = () => s("g", { class: "lmc-probe" }, s("circle", { r: 22 }), s("circle", { r: 7.5 }));
  const probe = handle(),
    bead = handle(),
    needle = s("path", { class: "lmc-needle", d: "M-5 9h10l-5 -7z" });
  const ground = s("g"),
    drawn = s("g"),
    curves = s("g");
  const map = s(
    "svg",
    {
      class: "lmc-panel lmc-map",
      tabindex: 0,
      role: "application",
      "aria-label": `Plane through ${names.join(", ")}: arrow keys move the probe`,
      ...FOCUS,
    },
    ground,
    drawn,
    needle,
    probe,
  );
  const profile = s(
    "svg",
    {
      class: "lmc-panel",
      tabindex: 0,
      role: "slider",
      "aria-label": "λ, the probe’s place on the straight line",
      "aria-valuemin": 0,
      "aria-valuemax": 1,
      ...FOCUS,
    },
    curves,
    bead,
  );
  const plots = h("div", { class: "lmc-plots" }, h("div", {}, map), h("div", {}, profile));
  const buttons = toggles(
    paths.map((path, p) => ({ ...path, name: `Walk from ${names[0]} to ${names[p + 1]}` })),
    "straight lines",
    walk,
  );
  buttons.classList.add("lmc-go");
  const cards = images ? images.truth.map((_, i) => card(images, i)) : [],
    right = h("p");
  const strip =
    images &&
    h(
      "div",
      { class: "lmc-strip" },
      right,
      h("ul", {}, ...cards.map(({ node }) => node)),
      h("p", { class: "lmc-note" }, images.why),
    );
  const says = h("p", { class: "lmc-says" }),
    [crier, tell] = announcer(says);
  frame(
    el,
    "plane",
    state,
    "The loss on a plane",
    [buttons],
    [
      ["Plots as SVG", () => save("plane.svg", "image/svg+xml", drawing([map, profile]))],
      ["Numbers as CSV", saveNumbers],
    ],
    plots,
    says,
    strip,
    crier,
  );

  // --- events
  function go(place) {
    stop();
    now = place;
    chosen = place.p ?? chosen;
    mark();
  }
  function walk(p) {
    go(lines[p][0]);
    stop = tween(
      [0],
      [n - 1],
      ([t]) => {
        now = lines[p][Math.round(t)];
        mark();
      },
      1500,
    );
  }
  onDrag(
    map,
    (event) => {
      const box = map.getBoundingClientRect(),
        pixel = [event.clientX - box.left, event.clientY - box.top];
      const gap = (place) =>
          far(
            place.xy.map((v, k) => to[k](v)),
            pixel,
          ),
        line = lines.flat().reduce((a, b) => (gap(b) < gap(a) ? b : a));
      go(gap(line) < 9 ? line : grid(inBoth((axis, k) => closest(axis.map(to[k]), pixel[k]))));
    },
    probe,
  );
  onPress(map, ({ right, up, page, end, fast }) => {
    const step = [right, up].map((by) => (fast ? 5 : 1) * by);
    step[1] += 5 * page;
    go(
      end
        ? ends(lines[chosen])[Number(end > 0)]
        : grid(inBoth((axis, k) => clamp(closest(axis, now.xy[k]) + step[k], 0, axis.length - 1))),
    );
  });
  onKeys(
    profile,
    () => shadow().t,
    n,
    (t) => go(lines[chosen][t]),
  );
  onDrag(profile, (event) =>
    go(lines[chosen][closest(lambdas.map(P), event.clientX - profile.getBoundingClientRect().left)]),
  );
  function saveNumbers() {
    const rows = y
      .flatMap((_, j) => x.map((_, i) => ({ where: "grid", ...grid([i, j]) })))
      .concat(lines.flatMap((line, p) => line.map((place) => ({ where: paths[p].name, ...place }))));
    save(
      "plane.csv",
      "text/csv",
      csv([["where", "x", "y", "loss"], ...rows.map(({ where, xy, loss }) => [where, ...xy, loss])]),
    );
  }

  // --- drawing
  function draw() {
    if (!plots.clientWidth) return;
    const wide = map.parentNode.clientWidth,
      [w, d] = [x, y].map((axis) => axis.at(-1) - axis[0]),
      unit = Math.min(wide / w, 440 / d);
    const left = (wide - unit * w) / 2,
      bottom = LEGEND + unit * d,
      part = wide / colors.length;
    to = [scale(x[0], x[0] + w, left, left + unit * w), scale(y[0], y[0] + d, bottom, LEGEND)];
    resize(map, wide, bottom);
    ground.setAttribute(
      "transform",
      `translate(${left} ${bottom}) scale(${(unit * w) / 1000} ${(unit * w) / -1000})`,
    );
    ground.replaceChildren(
      s("rect", { width: 1000, height: (1000 * d) / w, fill: colors[0] }),
      ...regions.map((d, i) =>
        s("path", {
          class: "lmc-region",
          d,
          fill: colors[i + 1],
          "fill-rule": "evenodd",
          "vector-effect": "non-scaling-stroke",
        }),
      ),
    );
    drawn.replaceChildren(
      s("text", { class: "lmc-name", x: 0, y: 13 }, "Loss", s("tspan", {}, " nats, log scale")),
      ...colors.map((fill, i) => s("rect", { x: part * i, y: 32, width: part + 0.5, height: 8, fill })),
      ...[0, 0.25, 0.5, 0.75, 1].map((f) =>
        s(
          "text",
          { class: "lmc-tick", x: wide * f, y: 28, "text-anchor": f ? (f < 1 ? "middle" : "end") : "start" },
          show(levels[0] * (levels.at(-1) / levels[0]) ** f),
        ),
      ),
      ...tips.flatMap((tip, p) =>
        ["lmc-casing", "lmc-thread"].map((name) =>
          s("path", {
            class: name,
            d: points(...to.map((f, k) => [f(origin[k]), f(tip[k])])),
            "stroke-dasharray": name === "lmc-thread" ? dashes(paths[p], 2.5) : null,
          }),
        ),
      ),
      ...corners.flatMap(([u, v], k) => [
        s("circle", { class: "lmc-net", cx: to[0](u), cy: to[1](v), r: 5 }),
        s("text", { class: "lmc-netname", x: to[0](u), y: to[1](v) - 12, "text-anchor": "middle" }, names[k]),
      ]),
    );
    resize(profile, profile.parentNode.clientWidth, plots.clientWidth < 620 ? 210 : clamp(bottom, 220, 330));
    mark();
  }
  function drawProfile() {
    const [width, height] = ["width", "height"].map((key) => Number(profile.getAttribute(key))),
      own = paths[chosen];
    P = scale(0, 1, LEFT, width - RIGHT);
    Q = scale(low, high, height - BOTTOM, TOP);
    const peak = own.loss.indexOf(Math.max(...own.loss)),
      label = `${own.name}: barrier ${show(own.barrier)}`,
      half = 3.8 * label.length;
    curves.replaceChildren(
      ...axes(
        width,
        height,
        P,
        Q,
        ticks(low, high, 4),
        ["Loss along the lines", "nats"],
        [names[0], names[chosen + 1]],
      ),
      ...[1 - chosen, chosen].map((p, top) =>
        s(
          "g",
          look(paths[p]),
          s("path", {
            class: "lmc-line",
            d: points(lambdas.map(P), paths[p].loss.map(Q)),
            "stroke-width": 2 + top,
            "stroke-dasharray": dashes(paths[p], 2 + top),
          }),
        ),
      ),
      s("path", { class: "lmc-base", d: points([P(0), P(1)], ends(own.loss).map(Q)) }),
      s(
        "text",
        {
          ...look(own, "lmc-label lmc-strong"),
          x: clamp(P(lambdas[peak]), LEFT + half, width - half),
          y: Q(own.loss[peak]) - 12,
          "text-anchor": "middle",
        },
        label,
      ),
    );
    buttons.childNodes.forEach((button, p) => button.setAttribute("aria-pressed", p === chosen));
  }
  // Position of the probe on the chosen line; off the line, the nearest point on it.
  const shadow = () => lines[chosen].reduce((a, b) => (far(b.xy, now.xy) < far(a.xy, now.xy) ? b : a));
  function mark() {
    if (!to) return;
    drawProfile();
    const { loss, name } = paths[chosen],
      lambda = lambdas[shadow().t],
      on = now.p !== undefined;
    const rise = now.loss - loss[0] - lambda * (loss[n - 1] - loss[0]),
      edges = [levels[0], levels.at(-1)].map(Math.log),
      height = show(Math.abs(rise));
    probe.setAttribute("transform", `translate(${to.map((f, k) => f(now.xy[k]))})`);
    bead.setAttribute("transform", `translate(${P(lambda)} ${Math.max(8, Q(now.loss))})`);
    bead.classList.toggle("lmc-off", !on);
    needle.setAttribute(
      "transform",
      `translate(${map.clientWidth * clamp(scale(...edges, 0, 1)(Math.log(now.loss)), 0, 1)} 40)`,
    );
    says.textContent = `The loss ${on ? `at λ = ${place(lambda)} on the path ${name}` : "here"} is ${show(now.loss)} nats${on && height !== "0" ? `, ${height} ${rise < 0 ? "below" : "above"} the straight line between the losses of the ends` : ""}. Distances: ${names.map((one, k) => `${show(far(corners[k], now.xy))} to ${one}`).join(", ")}.`;
    const { answers, sure } = on ? paths[now.p] : plane;
    cards.forEach(({ fill }, i) => fill(answers[now.t][i], sure[now.t][i]));
    if (images)
      right.textContent = `What the network there answers: ${images.truth.filter((one, i) => answers[now.t][i] === one).length} of ${cards.length} right`;
    profile.setAttribute("aria-valuenow", lambda);
    profile.setAttribute("aria-valuetext", `λ = ${place(lambda)}, loss ${show(now.loss)}`);
    if (document.activeElement !== profile) tell(); // a slider says its own value
  }

  const unwatch = onWidth(plots, draw);
  return () => {
    stop();
    unwatch();
  };
}

export default { render };
