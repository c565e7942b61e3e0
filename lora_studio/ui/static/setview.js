// "The set": its grade and what would raise it, two gauges, what is covered and what is missing, everything found.
import { Failure, button, call, fill, go, h, icon, number, plural, state } from "./core.js";
import { keepFocus } from "./focus.js";
import { pictures } from "./pictures.js";

const LETTERS = "ABCDEF";
const GAUGES = {
  consistency: ["Consistency", "Is it one thing? The LoRA learns what all pictures share.", 0.45, 0.75],
  diversity: ["Diversity", "Does the rest vary? What never changes is learned along with the subject.", 0.4, 0.7],
};
const SHOWN = 10; // values of an aspect before "more"
const LOOKED = { embedding: "likeness", scores: "what is seen in them", faces: "faces", lettering: "lettering" };

/** {node, draw()}; actions: show(ids, title) */
export function setView({ show }) {
  const node = h("div.ls-whole-set");
  const opened = new Set(); // aspects of which all values are shown
  let whole = null, asked = "", drawn = [];

  const there = (ids) => ids.map(Number).filter((id) => pictures.byId.has(id));
  const showButton = (ids, title) => button(`Show ${plural(ids.length, "picture")}`, () => show(ids, title), { icon: "image" });
  const short = (text) => (text.length > 46 ? text.slice(0, 45).trimEnd() + "…" : text);
  const looking = () => Boolean(!pictures.look || pictures.look.job || (pictures.look.missing !== 0 && !pictures.look.problem));

  // ---- what is not known yet ------------------------------------------------------------------------------------------

  /** How many pictures took no part in which judgement, as a sentence; empty when all is known. */
  function unknown() {
    if (!whole) return "";
    const left = Object.entries(LOOKED).map(([name, title]) => [title, whole.used - whole.known[name]]).filter(([, count]) => count > 0);
    if (!left.length) return "";
    const counts = new Set(left.map(([, count]) => count));
    const names = left.map(([title]) => title);
    const list = names.length > 1 ? `${names.slice(0, -1).join(", ")} and ${names.at(-1)}` : names[0];
    const what = counts.size === 1 ? `${list} of ${plural(left[0][1], "picture")}` : left.map(([title, count]) => `${title} of ${number(count)}`).join(", ");
    return `Not known yet: ${what}. ${looking() ? "They are being looked at; until then" : "Until they are looked at,"} that takes no part in the judgement.`;
  }
  function unknownNote() {
    const above = (pictures.look && pictures.look.problem) || ""; // told beside the views already
    const problem = whole && whole.problem && !above.includes(whole.problem) ? whole.problem : "";
    const text = unknown();
    if (!text && !problem) return null;
    return h("div.ls-unknown", { role: "status" }, looking() && !problem ? h("span.ls-spinner") : icon("warn", 15), h("div", null, text, text && problem ? " " : "", problem));
  }

  // ---- grade ----------------------------------------------------------------------------------------------------------

  /** The pictures a finding is about; those of the aspect that says the same where it names none. */
  function concerned(finding) {
    if (finding.images && finding.images.length) return there(finding.images);
    const aspect = pictures.coverage.find((one) => one.text === finding.text && one.level === "warn");
    return aspect && aspect.values.length ? there(aspect.values[0].ids) : [];
  }

  function todo(finding, place) {
    const ids = concerned(finding);
    const needsMore = !finding.images.length;
    const points = finding.evidence && finding.evidence.points;
    return h("li.ls-todo", null, h("span.ls-todo-number", null, String(place + 1)),
      h("div", null, h("div.ls-todo-text", null, finding.text), finding.remedy && h("div.ls-muted", null, finding.remedy)),
      h("div.ls-todo-do", null, points ? h("span.ls-faint", { title: "What it would add to the grade, of 100 points" }, `+${plural(Math.round(points), "point")}`) : null,
        ids.length > 0 && showButton(ids, short(finding.text)),
        needsMore && button("Gather more", () => go(state.project, "gathering"), { icon: "plus" })));
  }

  function gradeCard() {
    const grade = pictures.grade, partial = unknown() !== "";
    const open = partial && looking() && !pictures.gauges.consistency; // a third of the grade is about to be known
    const letter = open ? "?" : grade.letter;
    const title = open ? "Not graded yet" : partial ? `So far: ${grade.text[0].toLowerCase()}${grade.text.slice(1)}` : grade.text;
    const points = open ? "How much it is one thing is not known yet." : `${number(grade.points)} of 100 points${partial ? ", by what is known so far" : ""}`;
    return h("section.ls-set-card.ls-grade-card", { "aria-label": "Grade" },
      h("div.ls-grade", null,
        h(`div.ls-grade-letter.${open ? "open" : letter}` + (partial ? ".partial" : ""), { id: "ls-grade", "aria-label": open ? "Not graded yet" : `Grade ${letter}` }, letter),
        h("div", null, h("h2", null, title), h("div.ls-muted", null, points)),
        h("div.ls-letters", { "aria-hidden": "true" }, [...LETTERS].map((one) => h("span" + (one === letter ? ".current" : ""), null, one)))),
      grade.next.length ? [h("h3", null, "What would help most"), h("ol.ls-todos", null, grade.next.map(todo))]
        : h("div.ls-note.good", null, partial ? "Nothing to mend in what is known so far." : "Nothing would raise it much: go on with the tags."));
  }

  // ---- gauges ---------------------------------------------------------------------------------------------------------

  function gauge(name) {
    const [title, meaning, low, high] = GAUGES[name], found = pictures.gauges[name];
    const level = !found ? "" : found.value >= high ? "good" : found.value >= low ? "warn" : "bad";
    const few = whole && whole.used < 4, partial = whole && whole.known.embedding < whole.used;
    return h("div.ls-gauge", { id: `ls-gauge-${name}` },
      h("div.ls-gauge-head", null, h("h3", null, title), h(`span.ls-gauge-value.${level || "unknown"}`, null, found ? String(Math.round(100 * found.value)) : "not known yet"), found && h("span.ls-faint", null, partial ? "of 100, so far" : "of 100")),
      h("div.ls-gauge-bar", { role: "meter", "aria-label": title, "aria-valuemin": "0", "aria-valuemax": "100", "aria-valuenow": found ? String(Math.round(100 * found.value)) : null, "aria-valuetext": found ? found.text : "not known yet" },
        [[0, low, "bad"], [low, high, "warn"], [high, 1, "good"]].map(([from, to, zone]) => h(`span.${zone}` + (zone === level ? ".current" : ""), { style: `flex:${to - from}` })),
        found && h("i", { style: `left:${100 * found.value}%` })),
      h("div.ls-muted", null, meaning),
      found ? [h("div", null, found.text), found.why && h("div.ls-gauge-why", null, found.why)]
        : h("div", null, few ? "With fewer than 4 pictures it says nothing." : looking() ? "It is worked out when the pictures have been looked at." : "Too little is known of the pictures for it: they need tags or a look by the auto-tagger."));
  }
  const gaugesCard = () => h("section.ls-set-card.ls-gauges", { "aria-label": "Consistency and diversity" }, Object.keys(GAUGES).map(gauge));

  // ---- coverage -------------------------------------------------------------------------------------------------------

  function valueChip(aspect, value) {
    const ids = there(value.ids), share = Math.round(100 * value.share);
    return h("button.ls-value-chip", { type: "button", style: `--share:${share}%`, title: `Show the ${plural(ids.length, "picture")} with ${value.name}`, "data-value": value.name, onclick: () => show(ids, `${aspect.name}: ${value.name}`) },
      h("span.ls-ellipsis", null, value.name), h("b", null, number(ids.length)), h("span.share", null, `${share} %`));
  }

  function aspectRow(aspect) {
    const all = opened.has(aspect.name) ? aspect.values : aspect.values.slice(0, SHOWN), more = aspect.values.length - all.length;
    const wait = !aspect.judged && (!whole || whole.known.scores < whole.used);
    return h("tr", { "data-aspect": aspect.name },
      h("th", { scope: "row" }, h(`span.ls-level.${aspect.judged ? aspect.level : "unknown"}`, { "aria-hidden": "true" }), aspect.name),
      h("td", null,
        h("div.ls-value-chips", null, all.map((value) => valueChip(aspect, value)),
          more > 0 && h("button.ls-link", { type: "button", onclick: () => { opened.add(aspect.name); redraw(); } }, `${number(more)} more`),
          aspect.missing.map((name) => h("span.ls-missing", null, name, h("b", null, "missing"))),
          !aspect.values.length && !aspect.missing.length && h("span.ls-faint", null, wait ? "not known yet" : aspect.text)),
        aspect.level !== "good" && aspect.judged && h("div.ls-aspect-text", null, aspect.text, aspect.remedy ? [" ", h("span.ls-muted", null, aspect.remedy)] : null)));
  }
  const coverageCard = () => pictures.coverage.length > 0 && h("section.ls-set-card.ls-coverage", { "aria-label": "Coverage" },
    h("div.ls-card-head", null, h("h2", null, "Coverage"), h("span.ls-muted", null, "What the set shows, by its captions and by what the auto-tagger sees. A click shows the pictures.")),
    h("table", null, h("tbody", null, pictures.coverage.map(aspectRow))));

  // ---- findings and training sizes ------------------------------------------------------------------------------------

  function findingsCard() {
    const told = new Set([...pictures.grade.next, ...pictures.coverage].map((one) => one.text));
    const left = pictures.findings.filter((finding) => !told.has(finding.text));
    return left.length > 0 && h("section.ls-set-card.ls-all-found", { "aria-label": "Also found" }, h("h2", null, "Also found"),
      left.map((finding) => {
        const ids = there(finding.images);
        return h("div.ls-finding", null, h("div", null, h(`div.ls-note.${finding.level}`, null, h("span", null, finding.text)), finding.remedy && h("div.ls-muted.ls-remedy", null, finding.remedy)),
          ids.length > 0 && h("button.ls-link", { type: "button", onclick: () => show(ids, short(finding.text)) }, ids.length === 1 ? "Show it" : `Show ${number(ids.length)}`));
      }));
  }

  function bucketsCard() {
    if (!whole) return null;
    const ids = [...new Set(whole.buckets.flatMap((bucket) => bucket.ids))];
    return h("section.ls-set-card.ls-small-buckets", { "aria-label": "Training sizes" }, h("h2", null, "Training sizes that never fill a batch"),
      whole.buckets.length ? [
        h("div.ls-muted", null, `Pictures train in groups of one size, ${number(whole.batch_size)} at a time. ${ids.length === 1 ? "This one trains" : "These train"} in smaller groups and so ${ids.length === 1 ? "weighs" : "weigh"} more; none is left out. Another crop moves a picture to another size.`),
        h("div.ls-value-chips", null, whole.buckets.slice(0, 24).map((bucket) => h("button.ls-value-chip", { type: "button", title: `Show ${plural(bucket.ids.length, "picture")}`, onclick: () => show(bucket.ids, `trains at ${bucket.width} × ${bucket.height}`) },
          h("span", null, `${bucket.width} × ${bucket.height}`), h("b", null, number(bucket.ids.length)))), whole.buckets.length > 24 && h("span.ls-faint", null, `and ${number(whole.buckets.length - 24)} more`)),
      ] : h("div.ls-note.good", null, `None: every size comes up often enough for ${number(whole.batch_size)} at a time.`));
  }

  // ---- drawing --------------------------------------------------------------------------------------------------------

  function redraw() {
    keepFocus(node, () => fill(node, unknownNote(), h("div.ls-set-top", null, gradeCard(), gaugesCard()), coverageCard(), h("div.ls-set-bottom", null, findingsCard(), bucketsCard())));
  }

  async function ask(stamp) {
    const project = state.project;
    try {
      const found = await call("curation.whole", { project }, { quiet: true });
      if (project !== pictures.project || stamp !== asked) return;
      whole = found;
      draw();
    } catch (error) { if (!(error instanceof Failure)) throw error; asked = ""; }
  }

  function draw() {
    if (!pictures.loaded || (pictures.all.length && !pictures.audited)) {
      fill(node, h("div.ls-empty", null, h("span.ls-spinner"), h("p", null, "Judging the pictures")));
      drawn = [];
      return;
    }
    if (!pictures.all.length) {
      fill(node, h("div.ls-empty", null, icon("image", 30), h("h3", null, "No pictures yet"), h("p", null, "What they make together is judged here once there are some."), button("Gather some", () => go(state.project, "gathering"), { kind: "primary" })));
      drawn = [];
      return;
    }
    const stamp = [pictures.project, pictures.revision, pictures.look && (pictures.look.job ? pictures.look.job.id : pictures.look.missing)].join("|");
    if (stamp !== asked) { if (!asked.startsWith(`${pictures.project}|`)) whole = null; asked = stamp; ask(stamp); }
    const now = [pictures.grade, looking(), pictures.look && pictures.look.problem, whole];
    if (drawn.length && now.every((one, place) => one === drawn[place])) return;
    drawn = now;
    redraw();
  }
  return { node, draw };
}
