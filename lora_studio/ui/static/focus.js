// What is drawn anew must not take the keyboard's place away.

/** Run `draw`, which replaces what is in `node`; the button that had the focus has it again, or the one in its place. */
export function keepFocus(node, draw) {
  const had = document.activeElement, place = node.contains(had) ? [...node.querySelectorAll("button")].indexOf(had) : -1;
  draw();
  if (place < 0 || node.contains(document.activeElement)) return;
  const again = (had.id && document.getElementById(had.id)) || node.querySelectorAll("button")[place];
  if (again) again.focus({ preventScroll: true });
}
