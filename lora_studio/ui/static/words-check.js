// "Check": what is wrong with the captions, each with what mends it in all of them at once.
import { button, call, fill, h, icon, number, plural, state } from "./core.js";
import { keepFocus } from "./focus.js";
import { editPictures, pictures, used } from "./pictures.js";
import { answer } from "./words-ask.js";
import { confirmDiff } from "./words-diff.js";
import { changeCaptions } from "./words-edits.js";

const LEVELS = { bad: "Must be mended", warn: "Worth a look", info: "Good to know" };
/** What several problems of one kind are called: one, many. */
const KINDS = {
  contradiction: ["pair of tags contradicts itself", "pairs of tags contradict each other"], typo: ["tag is perhaps misspelt", "tags are perhaps misspelt"], file_name: ["file name in captions", "kinds of file names in captions"],
  mojibake: ["kind of broken letters", "kinds of broken letters"], uncaptioned: ["kind of missing captions", "kinds of missing captions"], repeat: ["kind of repeats", "kinds of repeats"], identical: ["group of captions is the same", "groups of captions are the same"],
};
const EXAMPLES = 12, FEW = 4;

export function checkView({ show, scope }) {
  const found = answer("words.lint", draw);
  const node = h("div.ls-words-scroll", { id: "ls-check" });
  const opened = new Set(); // what is shown whole: kinds of problems, lists of examples

  const there = (problems) => [...new Set(problems.flatMap((one) => one.ids))].filter((id) => pictures.byId.has(id));
  const short = (text) => (text.length > 46 ? `${text.slice(0, 45).trimEnd()}…` : text);
  const showButton = (ids, title) => ids.length > 0 && button(`Show ${plural(ids.length, "picture")}`, () => show(ids, short(title)), { kind: "quiet", icon: "image" });
  const open = (key) => { opened.add(key); draw(); };

  /** What it is about, in the words of the captions: tags, or pairs of what stands there and what it should be. */
  function examples(problem, key) {
    const { pairs = null, tags = null, wrong = "" } = problem.evidence || {};
    const shown = pairs ? pairs.map(([before, after]) => h("span.ls-example", null, h("span", null, before), h("span.ls-faint", { "aria-label": "becomes" }, "→"), h("span", null, after)))
      : (tags || []).map((tag) => h("span.ls-example" + (tag === wrong ? ".wrong" : ""), null, tag));
    if (!shown.length || [...(pairs || []).flat(), ...(tags || [])].every((one) => problem.text.includes(one))) return null; // told already
    const all = opened.has(key) ? shown : shown.slice(0, EXAMPLES);
    return h("div.ls-examples", null, all, shown.length > all.length && h("button.ls-link", { type: "button", onclick: () => open(key) }, `${number(shown.length - all.length)} more`));
  }

  const mend = (problem) => changeCaptions(problem.text, problem.ids, problem.fix, { yes: "Fix", note: problem.remedy });
  function mendAll(kind, title, whole) {
    return confirmDiff({
      title, yes: "Fix all", note: whole ? null : "Where nothing tells which is right, captions stay as they are.",
      preview: () => call("words.fix", { project: state.project, kind }, { quiet: true }),
      apply: (digest) => editPictures("words.mend", { kind, digest }),
    });
  }

  function row(problem, within = false) {
    return h(`li.ls-problem-row.${problem.level}` + (within ? ".within" : ""), { "data-kind": problem.kind },
      within ? h("span") : h(`span.ls-level.${problem.level}`, { title: LEVELS[problem.level], role: "img", "aria-label": LEVELS[problem.level] }),
      h("div.ls-problem-text", null, h("div", null, problem.text), problem.remedy && h("div.ls-muted", null, problem.remedy), examples(problem, `${problem.kind} ${problem.text}`)),
      h("div.ls-problem-do", null, showButton(there([problem]), problem.text), problem.fix && button(within ? "Fix" : problem.ids.length === 1 ? "Fix it" : "Fix for all", () => mend(problem), { icon: "check", kind: within ? "quiet" : "" })));
  }

  /** Problems of one kind: told together, with the first of them. */
  function group(kind, problems) {
    if (problems.length === 1) return [row(problems[0])];
    const [one, many] = KINDS[kind] || [kind.replaceAll("_", " "), kind.replaceAll("_", " ")];
    const title = plural(problems.length, one, many), all = opened.has(kind) ? problems : problems.slice(0, FEW), level = problems[0].level;
    return [h(`li.ls-problem-row.${level}.many`, { "data-group": kind }, h(`span.ls-level.${level}`, { title: LEVELS[level], role: "img", "aria-label": LEVELS[level] }),
      h("div.ls-problem-text", null, h("div", null, title)),
      h("div.ls-problem-do", null, showButton(there(problems), title), problems.some((problem) => problem.fix) && button("Fix all", () => mendAll(kind, title, problems.every((problem) => problem.fix)), { icon: "check", id: `ls-fix-${kind}` }))),
    all.map((problem) => row(problem, true)),
    problems.length > all.length && h("li.ls-problem-more", null, h("button.ls-link", { type: "button", onclick: () => open(kind) }, `Show the other ${number(problems.length - all.length)}`))];
  }

  function nothing() {
    const any = pictures.all.some(used);
    fill(node, h("div.ls-empty", null, found.problem ? icon("warn", 28) : !found.found ? h("span.ls-spinner") : icon(any ? "check" : "image", 30),
      h("h3", null, found.problem || (!found.found ? "Reading the captions" : any ? "Nothing is wrong with the captions" : "No pictures yet")),
      found.found && any && h("p", null, "No contradictions, misspelt or missing words, repeats or captions that are too long were found.")));
  }

  function draw() {
    found.ask(scope().mode);
    const wrong = (found.found ? found.found.problems : []).filter((one) => one.level !== "good");
    if (found.problem || !wrong.length) { nothing(); return; }
    const kinds = new Map();
    for (const problem of wrong) kinds.set(problem.kind, [...(kinds.get(problem.kind) || []), problem]);
    const mendable = wrong.filter((one) => one.fix).length;
    keepFocus(node, () => fill(node, h("section.ls-set-card.ls-problems", { "aria-label": "Problems of the captions" },
      h("div.ls-card-head", null, h("h2", null, `${plural(wrong.length, "thing")} found`), h("span.ls-muted", null, mendable ? `${mendable === wrong.length ? "Each" : `${number(mendable)} of them`} can be mended with one click, which first shows what will change.` : "The gravest first.")),
      h("ul", null, [...kinds].map(([kind, problems]) => group(kind, problems))))));
  }
  return { node, draw };
}
