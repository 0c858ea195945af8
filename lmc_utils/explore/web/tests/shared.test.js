// The computations of the shared helpers, without a browser: node --test lmc_utils/explore/web/tests

const assert = require("node:assert/strict");
const { readFileSync } = require("node:fs");
const { join } = require("node:path");
const { test } = require("node:test");
const vm = require("node:vm");

// The helpers are no module: Python joins them with each kind of figure. Values leave the sandbox as JSON.
const source = readFileSync(join(__dirname, "..", "shared.js"), "utf-8");
const call = (name, ...values) =>
  JSON.parse(
    vm.runInNewContext(
      `${source}\nJSON.stringify(${name}(...JSON.parse(${JSON.stringify(JSON.stringify(values))})))`,
    ),
  );

test("numbers show three significant digits and at most five decimals", () => {
  const shown = { 0: "0", 1.337: "1.34", 12.34: "12.3", 1234.5: "1235", 0.012345: "0.0123", 0.0000012: "0" };
  for (const [value, text] of Object.entries(shown)) assert.equal(call("show", Number(value)), text);
  assert.equal(call("show", -0.5), "−0.500");
});

test("tiny numbers show a power of ten", () => {
  assert.equal(call("power", 3.2e-14), "3·10⁻¹⁴");
  assert.equal(call("power", -4e-7), "−4·10⁻⁷");
  assert.equal(call("power", 0.25), "0.250");
});

test("signs are always written, and positions drop zeros at their end", () => {
  assert.equal(call("signed", 0.5), "+0.500");
  assert.equal(call("signed", -0.5), "−0.500");
  assert.equal(call("place", 0.5), "0.5");
  assert.equal(call("place", 1 / 3), "0.333");
});

test("ticks are round numbers inside the range", () => {
  assert.deepEqual(call("ticks", 0.4, 1.95, 4), [
    [0.5, "0.5"],
    [1, "1.0"],
    [1.5, "1.5"],
  ]);
  for (const [low, high] of [
    [0, 1],
    [0.41, 0.43],
    [3.7, 5.2],
    [0, 180],
  ]) {
    const found = call("ticks", low, high, 5);
    assert.ok(found.length >= 3 && found.length <= 11);
    for (const [value] of found) assert.ok(value >= low - 1e-9 && value <= high + 1e-9);
  }
});

test("an axis begins at zero where the values come near it, otherwise a little below them", () => {
  assert.deepEqual(call("range", [0.1, 2]), [0, 2]);
  const [low, high] = call("range", [1, 2]);
  assert.ok(low < 1 && low > 0.8);
  assert.equal(high, 2);
  assert.ok(call("range", [3, 3])[0] < 3, "a flat curve has room below it");
});

test("keys lead to the next place, a page on, or to an end, and never beyond", () => {
  const press = (some) => ({ right: 0, up: 0, page: 0, end: 0, ...some });
  assert.equal(call("stepTo", press({ right: 1 }), 3, 25), 4);
  assert.equal(call("stepTo", press({ up: -1 }), 3, 25), 2);
  assert.equal(call("stepTo", press({ page: 1 }), 3, 25), 8);
  assert.equal(call("stepTo", press({ end: 1 }), 3, 25), 24);
  assert.equal(call("stepTo", press({ end: -1 }), 3, 25), 0);
  assert.equal(call("stepTo", press({ right: -1 }), 0, 25), 0);
});

test("a table becomes CSV whose cells may hold commas, quotes and lines", () => {
  assert.equal(call("csv", [["a", 'b "c", d', 0.5]]), 'a,"b ""c"", d",0.5\r\n');
});

test("a polyline names its points with one decimal", () => {
  assert.equal(call("points", [0, 1.25], [2, 3.14]), "M0.0 2.0L1.3 3.1");
});

test("boxes meet where they overlap, not where they only touch", () => {
  assert.equal(call("meet", [0, 0, 2, 2], [1, 1, 3, 3]), true);
  assert.equal(call("meet", [0, 0, 2, 2], [2, 0, 3, 3]), false);
});

test("labels stay in the room and off the boxes that are taken", () => {
  const labels = [
    {
      width: 40,
      line: [
        [100, 100],
        [150, 100],
      ],
    },
  ];
  const taken = [[0, 80, 300, 99]];
  const [[x, y, box]] = call("placeLabels", labels, [], taken, [0, 0, 300, 200], 16);
  assert.ok(y > 100, "below the line: above it there is no room");
  assert.ok(x >= 0 && x <= 300);
  assert.equal(call("meet", box, taken[0]), false);
});
