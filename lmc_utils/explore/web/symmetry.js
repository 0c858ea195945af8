// A walk inside one class of symmetry: the weights move, the answer does not; and what is no symmetry, to compare with.

function render({ model, el }) {
  /** @type {WalkState} */
  const state = JSON.parse(model.get("state"));
  const { header, ways, distance, change, labels, answers, picture, prompt, texts, blocks } = state;
  const n = change[0].length;
  let at = 0,
    way = 0;

  // --- elements
  const images = blocks.map(({ style }) => h("span", { class: "lmc-block", role: "img", style }));
  const slider = h("input", {
    type: "range",
    min: 0,
    max: n - 1,
    step: 1,
    "aria-label": "the way from the identity to a random element",
    ...FOCUS,
  });
  const says = h("p", { class: "lmc-says" }),
    [crier, tell] = announcer(says);
  const bars = labels.map((label, i) =>
    h(
      "li",
      {},
      h("span", { class: "lmc-answer" }, label),
      h("span", { class: "lmc-bar" }, h("i"), h("b", { style: `left:${100 * answers[0][0][i]}%` })),
      h("span"),
    ),
  );
  const written = h("p", { class: "lmc-written" });
  const rows = ways.map((name) =>
    h("tr", { "data-way": name }, h("th", { scope: "row" }, name), h("td"), h("td")),
  );
  const figure = frame(
    el,
    "symmetry",
    state,
    "A walk inside a class of symmetry",
    [
      radios(ways, "what moves the weights", uniqueGroup(), (i) => {
        way = i;
        update();
        tell();
      }),
    ],
    [
      [
        "Numbers as CSV",
        () =>
          save(
            "symmetry.csv",
            "text/csv",
            csv([
              ["transformation", "t", "distance", "change"],
              ...ways.flatMap((name, w) => change[w].map((x, i) => [name, i / (n - 1), distance[w][i], x])),
            ]),
          ),
      ],
    ],
    h(
      "div",
      { class: "lmc-slide" },
      h("span", { "aria-hidden": "true" }, "identity"),
      slider,
      h("span", { "aria-hidden": "true" }, "random"),
    ),
    h(
      "div",
      { class: "lmc-walk" },
      h(
        "div",
        { class: "lmc-blocks" },
        ...images.map((image, i) => h("p", { class: "lmc-note" }, image, blocks[i].name)),
        h("p", { class: "lmc-note lmc-key" }, "weight: negative ", h("i"), " positive"),
      ),
      h(
        "div",
        {},
        h(
          "p",
          { class: "lmc-note lmc-asked" },
          picture && h("img", { src: picture, alt: "" }),
          `probability of the ${texts.length ? "next token" : "answer"} (line: before)`,
        ),
        h("ul", { class: "lmc-answers" }, ...bars),
      ),
    ),
    texts.length ? written : null,
    says,
    h(
      "table",
      {},
      h("thead", {}, h("tr", {}, ...header.map((name) => h("th", { scope: "col" }, name)))),
      h("tbody", {}, ...rows),
    ),
    crier,
  );

  // --- events
  const move = (to) => {
    at = to;
    update();
  };
  slider.addEventListener("input", () => move(Number(slider.value)));
  onKeys(slider, () => at, n, move);

  function update() {
    const far = `${Math.round((100 * at) / (n - 1))} % of the way`;
    figure.classList.toggle("lmc-wrong", change[way][at] > 1e-6);
    images.forEach((image, i) => {
      const { name, frames, count } = blocks[i],
        frame = frames[way][at];
      image.style.backgroundPosition = `0 0, 0 ${(100 * frame) / (count - 1 || 1)}%`;
      image.setAttribute("aria-label", `${name}: ${frame ? "moved" : "as it was"}`);
    });
    bars.forEach(({ children: [, bar, text] }, i) => {
      const percent = 100 * answers[way][at][i];
      bar.firstChild.style.width = `${percent}%`;
      text.textContent = `${Math.round(percent)} %`;
    });
    if (texts.length) {
      const first = texts[0][0],
        now = texts[way][at];
      let same = 0;
      while (same < now.length && now[same] === first[same]) same++;
      written.replaceChildren(h("span", {}, prompt), now.slice(0, same), h("em", {}, now.slice(same)));
    }
    rows.forEach((row, w) => {
      row.classList.toggle("lmc-chosen", w === way);
      row.children[1].textContent = show(distance[w][at]);
      row.children[2].textContent = power(change[w][at]);
    });
    slider.value = at;
    slider.setAttribute("aria-valuetext", `${far}, a logit moved by ${power(change[way][at])}`);
    says.textContent = `${ways[way]}, ${far}: the weights have moved by ${show(distance[way][at])} of their norm, a logit by ${power(change[way][at])} at most.`;
  }
  update();
}

export default { render };
