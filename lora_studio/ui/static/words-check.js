// "Check": what is wrong with the captions, each with what mends it in all of them at once.
import { button, fill, h, icon, number, plural } from "./core.js";
import { keepFocus } from "./focus.js";
import { pictures, used } from "./pictures.js";
import { answer } from "./words-ask.js";
import { changeCaptions } from "./words-edits.js";

const LEVELS = { bad: "Must be mended", warn: "Worth a look", info: "Good to know", good: "Fine" };
const EXAMPLES = 12;

export function checkView({ show }) {
  const found = answer("words.lint", draw);
  const node = h("div.ls-words-scroll", { id: "ls-check" });
  const opened = new Set(); // kinds of which all examples are shown

  /** What it is about, in the words of the captions: tags, or pairs of what stands there and what it should be. */
  function examples(problem) {
    const { pairs = null, tags = null } = problem.evidence || {};
    const shown = pairs ? pairs.map(([wrong, right]) => h("span.ls-example", null, h("span", null, wrong), h("span.ls-faint", { "aria-label": "becomes" }, "→"), h("span", null, right)))
      : (tags || []).map((tag) => h("span.ls-example", null, tag));
    if (!shown.length) return null;
    const key = `${problem.kind} ${problem.text}`, all = opened.has(key) ? shown : shown.slice(0, EXAMPLES);
    return h("div.ls-examples", null, all, shown.length > all.length && h("button.ls-link", { type: "button", onclick: () => { opened.add(key); draw(); } }, `${number(shown.length - all.length)} more`));
  }

  function row(problem) {
    const ids = problem.ids.filter((id) => pictures.byId.has(id));
    return h(`li.ls-problem-row.${problem.level}`, { "data-kind": problem.kind },
      h(`span.ls-level.${problem.level}`, { title: LEVELS[problem.level], role: "img", "aria-label": LEVELS[problem.level] }),
      h("div.ls-problem-text", null, h("div", null, problem.text), problem.remedy && h("div.ls-muted", null, problem.remedy), examples(problem)),
      h("div.ls-problem-do", null,
        ids.length > 0 && button(`Show ${plural(ids.length, "picture")}`, () => show(ids, problem.text.length > 46 ? `${problem.text.slice(0, 45).trimEnd()}…` : problem.text), { kind: "quiet", icon: "image" }),
        problem.fix && button(ids.length === 1 ? "Fix it" : "Fix for all", () => changeCaptions(problem.text, ids.length ? ids : "used", problem.fix, { yes: "Fix", note: problem.remedy }), { icon: "check" })));
  }

  function draw() {
    found.ask();
    const all = found.found ? found.found.problems : [], wrong = all.filter((one) => one.level !== "good");
    if (found.problem || !found.found || !wrong.length) {
      const any = pictures.all.some(used);
      fill(node, h("div.ls-empty", null, found.problem ? icon("warn", 28) : !found.found ? h("span.ls-spinner") : icon(any ? "check" : "image", 30),
        h("h3", null, found.problem || (!found.found ? "Reading the captions" : any ? "Nothing is wrong with the captions" : "No pictures yet")),
        found.found && any && h("p", null, "No contradictions, misspelt or missing words, repeats or captions that are too long were found.")));
      return;
    }
    const mendable = wrong.filter((one) => one.fix).length;
    keepFocus(node, () => fill(node, h("section.ls-set-card.ls-problems", { "aria-label": "Problems of the captions" },
      h("div.ls-card-head", null, h("h2", null, `${plural(wrong.length, "thing")} found`), h("span.ls-muted", null, mendable ? `${number(mendable)} of them can be mended with one click; each shows first what will change.` : "The gravest first.")),
      h("ul", null, wrong.map(row)))));
  }
  return { node, draw };
}
