// Who searches for a word wants the chapter that explains it, then its definition, then functions of that name.
var Scorer = {
  // not const: the script that reads it declares it, too
  score: ([_page, _title, _anchor, _about, score, file]) => score + 150 * /^book\/\d\d-/.test(file),
  // Sphinx's own weights
  objNameMatch: 11,
  objPartialMatch: 6,
  objPrio: { 0: 15, 1: 5, 2: -5 },
  objPrioDefault: 0,
  title: 15,
  partialTitle: 7,
  term: 5,
  partialTerm: 2,
};
