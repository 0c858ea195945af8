"""Tables of results, and the means with their errors that stand in them."""

from __future__ import annotations

import math
import re
from itertools import combinations

import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import lmc_utils as lmc

NAN = float("nan")


@given(st.lists(st.floats(-10, 10), min_size=3, max_size=8))
def test_single_networks_have_the_usual_standard_error(values):
    found = lmc.estimate({str(seed): x for seed, x in enumerate(values)})
    sample = torch.tensor(values, dtype=torch.float64)
    assert found.mean == pytest.approx(sample.mean().item(), abs=1e-9)
    assert found.seeds == pytest.approx(sample.std().item() / math.sqrt(len(values)), abs=1e-9)


@given(st.lists(st.floats(-10, 10), min_size=3, max_size=3))
def test_three_pairs_of_three_networks_err_twice_as_much_as_three_independent_ones(values):
    shared = lmc.estimate(dict(zip(("0-1", "0-2", "1-2"), values, strict=True)))
    alone = lmc.estimate(dict(zip("abc", values, strict=True)))
    assert shared.seeds == pytest.approx(2 * alone.seeds, abs=1e-9)


def test_the_error_over_seeds_is_that_of_a_mean_of_pairs():
    """Pairs that add up a term of each network: drawn anew many times, their mean errs as the jackknife says."""
    draw = torch.Generator().manual_seed(0)
    terms = torch.randn(2000, 6, generator=draw, dtype=torch.float64)
    found = [
        lmc.estimate({f"{i}-{j}": (row[i] + row[j]).item() for i, j in combinations(range(6), 2)}) for row in terms
    ]
    true = torch.tensor([one.mean for one in found]).std().item()
    said = torch.tensor([one.seeds for one in found]).square().mean().sqrt().item()
    assert said == pytest.approx(true, rel=0.05)


def test_networks_of_two_kinds_are_left_out_by_themselves():
    """Two narrow and three wide networks, each with a term of its own: the error is that of either mean, together."""
    draw = torch.Generator().manual_seed(0)
    narrow, wide = (torch.randn(4000, n, generator=draw, dtype=torch.float64) for n in (2, 3))
    found = [lmc.estimate({f"narrow {i}-wide {j}": (x[i] + y[j]).item() for i in range(2) for j in range(3)})
             for x, y in zip(narrow, wide, strict=True)]  # fmt: skip
    said = torch.tensor([one.seeds for one in found]).square().mean().sqrt().item()
    assert said == pytest.approx(math.sqrt(1 / 2 + 1 / 3), rel=0.05)
    one_narrow = lmc.estimate({f"narrow 0-wide {j}": x for j, x in enumerate((1.0, 2.0, 3.0))})
    assert one_narrow.seeds == pytest.approx(1 / math.sqrt(3))


def test_one_pair_has_no_error_over_seeds():
    assert lmc.estimate({"0-1": 0.5}, {"0-1": 0.1}) == (0.5, None, 0.1)
    assert str(lmc.estimate({"0-1": 0.5}, {"0-1": 0.1})) == "0.500 ± 0.100"


def curves(heights: dict[tuple[str, str, str], float], error: float | None = None) -> pd.DataFrame:
    """Rows of paths with three points, whose middle is so high."""
    rows = [
        {"set": "mlp", "pair": pair, "method": method, "split": split, "lambda": x, "loss": 1 + x + height * (x == 0.5),
         "accuracy": 0.5 - height * (x == 0.5)} | ({} if error is None else {"error": error * (x == 0.5)})
        for (pair, method, split), height in heights.items()
        for x in (1.0, 0.5, 0.0)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_a_table_of_curves_is_summed_up_by_method_and_split():
    heights = {(pair, method, split): base + shift
               for pair, shift in (("0-1", 0.0), ("0-2", 0.1), ("1-2", 0.2))
               for method, base in (("vanilla", 1.0), ("learned", 0.0)) for split in ("test", "train")}  # fmt: skip
    found = lmc.summarize(curves(heights, error=0.02))
    assert list(found.index) == ["vanilla", "learned"]
    assert list(found.columns) == ["test", "train"]
    assert found.loc["vanilla", "test"] == pytest.approx((1.1, 0.2 / math.sqrt(3), 0.02))
    drop = lmc.summarize(curves(heights), measure="accuracy").loc["learned", "train"]
    assert drop.mean == pytest.approx(0.1)
    assert drop.samples is None


def test_several_sets_keep_their_names():
    one = curves({("0-1", "vanilla", "test"): 1.0, ("0-1", "learned", "test"): 0.0})
    found = lmc.summarize(pd.concat([one, one.assign(set="vit")]))
    assert found.loc[("vit", "learned"), "test"].mean == pytest.approx(0)


def test_rows_of_several_paths_are_no_curve():
    rows = curves({("0-1", "vanilla", "test"): 1.0, ("0-2", "vanilla", "test"): 1.0})
    with pytest.raises(ValueError, match="hold a lambda twice: choose one set, pair"):
        lmc.Curve.from_rows(rows)
    assert lmc.Curve.from_rows(rows[rows.pair == "0-1"]).barrier == pytest.approx(1.0)


ROWS = {
    "vanilla": {"nats": lmc.Estimate(1.5189, 0.162, 0.02), "steps": 0, "paper": "2.02 ± 0.12"},
    "weight": {"nats": lmc.Estimate(0.0041, 0.001), "steps": 12, "paper": None},
    "learned": {"nats": lmc.Estimate(0.0044), "steps": 500, "paper": "<0.02"},
}


def test_a_terminal_shows_plain_text():
    assert str(lmc.table(ROWS, "Barriers of three pairs.", digits=2)) == (
        "Barriers of three pairs.\n"
        "                       nats steps        paper\n"
        "vanilla  1.52 ± 0.16 ± 0.02     0  2.02 ± 0.12\n"
        "weight          0.00 ± 0.00    12             \n"
        "learned                0.00   500        <0.02"
    )


def test_a_page_shows_the_same_words_in_a_table():
    table = lmc.table(ROWS, "Barriers <of> three pairs.", digits=2)
    html = table._repr_html_()
    shown = re.sub(r"\s+", " ", re.sub(r"<style.*?</style>|<[^>]+>", " ", html, flags=re.S))
    assert shown.replace("&lt;", "<").replace("&gt;", ">").split() == str(table).split()
    assert html.count('<th scope="row">') == 3
    assert "<th></th>" not in html


def test_entries_that_read_like_the_best_one_share_its_mark():
    html = lmc.table(ROWS, "Barriers.", digits=2, best={"nats": "min", "steps": "max"})._repr_html_()
    assert re.findall("<b>(.*?)</b>", html) == ["0.00", "0.00", "500"]
    assert re.findall("<b>(.*?)</b>", lmc.table(ROWS, "Barriers.", best={"nats": "min"})._repr_html_()) == ["0.004"] * 2


def test_bars_begin_at_zero_and_hold_their_intervals():
    html = lmc.table(ROWS, "Barriers.", bars="nats")._repr_html_()
    bars = [
        tuple(map(float, found))
        for found in re.findall(r"--mean: ([\d.]+)%; --low: ([\d.]+)%; --high: ([\d.]+)%", html)
    ]
    assert bars[0] == pytest.approx((100 * 1.5189 / 1.6809, 100 * 1.3569 / 1.6809, 100), abs=0.1)
    assert all(0 <= low <= mean <= high <= 100 for mean, low, high in bars)


def test_columns_stand_in_groups():
    frame = pd.DataFrame([[1, 2, 3.0]], ["a"], pd.MultiIndex.from_tuples([("x", "p"), ("x", "q"), ("y", "p")]))
    html = lmc.table(frame, "Groups.")._repr_html_()
    assert '<th scope="colgroup" colspan="2">x</th><th scope="colgroup" colspan="1">y</th>' in html


@pytest.mark.parametrize(
    "value, text", [(-0.0001, "0.000"), (NAN, ""), (None, ""), (True, "True"), (7, "7"), (1e-9, "0.000")]
)
def test_numbers_read_well(value, text):
    assert str(lmc.table({"a": {"b": value, "c": "."}}, "One.")).splitlines()[-1].split() == ["a", *text.split(), "."]


@pytest.mark.parametrize(
    "call, kind, text",
    [
        (lambda: lmc.table([], "x"), TypeError, "data must be a Mapping"),
        (lambda: lmc.table({"a": 1}, "x"), TypeError, r"data\['a'\] must be a Mapping"),
        (lambda: lmc.table({}, "x"), ValueError, "data has no entries"),
        (lambda: lmc.table(ROWS, "x", best="least"), ValueError, "best must be"),
        (lambda: lmc.table(ROWS, "x", best={"none": "min"}), ValueError, "no column 'none'"),
        (lambda: lmc.table(ROWS, "x", best=[1]), TypeError, "best must be a Mapping"),
        (lambda: lmc.table(ROWS, "x", bars="none"), ValueError, "no column 'none'"),
        (lambda: lmc.table(ROWS, "x", digits=-1), ValueError, "digits must be"),
        (lambda: lmc.table(ROWS, 5), TypeError, "caption must be a str"),
        (lambda: lmc.estimate({}), ValueError, "values must have seeds for keys"),
        (lambda: lmc.estimate({"0-1": 1.0, "0": 1.0}), ValueError, "values must have seeds for keys"),
        (lambda: lmc.estimate({"0-": 1.0}), ValueError, "values must have seeds for keys"),
        (lambda: lmc.estimate({"0-1": "high"}), TypeError, r"values\['0-1'\] must be a"),
        (lambda: lmc.estimate({"0-1": NAN}), ValueError, "must be a finite number"),
        (lambda: lmc.estimate({"0-1": 1.0}, {"0-2": 1.0}), ValueError, "samples must have the keys of values"),
        (lambda: lmc.summarize({}), TypeError, "table must be a DataFrame"),
        (lambda: lmc.summarize(pd.DataFrame({"pair": []})), ValueError, "no column 'method'"),
        (lambda: lmc.summarize(curves({("0-1", "a", "test"): 1.0})[:0]), ValueError, "has no rows"),
        (lambda: lmc.summarize(curves({("0-1", "a", "test"): 1.0}), "nats"), ValueError, "measure must be"),
    ],
)
def test_a_wrong_argument_is_named(call, kind, text):
    with pytest.raises(kind, match=text):
        call()
