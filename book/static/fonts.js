// Shows a page once its fonts are here, so that no line breaks anew under the reader's eyes; after .3 seconds in any case.
{
  const root = document.documentElement;
  const show = () => (root.style.visibility = "");
  root.style.visibility = "hidden";
  setTimeout(show, 300);
  const text = ["1em", "bold 1em", "italic 1em"].map((style) =>
    document.fonts.load(`${style} "Source Serif 4"`, "aλ"),
  );
  // Those of formulas are asked for when the page is laid out.
  Promise.all(text).then(() => requestAnimationFrame(() => document.fonts.ready.then(show)));
}
