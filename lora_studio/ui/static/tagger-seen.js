// "As trained": the captions as training will show them, and what the base's tokenizer makes of the trigger.
import { Failure, button, call, fill, go, h, icon, number, plural, poll, state, thumb } from "./core.js";
import { load, pictures, used } from "./pictures.js";

const SHOWN = 12; // captions of one draw
const ENDED = ["done", "stopped", "failed", "interrupted"];

/** {name, title, draw(node)}: a view of the Tagging tab. draw(node) fills `node`; call it again when pictures changed. */
export function seenView() {
  const root = h("div.ls-seen");
  const head = h("div.ls-toolbar"), list = h("div.ls-seen-list"), card = h("aside.ls-side.ls-trigger-card", { "aria-label": "Trigger" });
  fill(root, h("div.ls-pane", null, head, list), card);
  let seed = 1, found = null, trigger = null, reaction = null, asked = "", asking = false, numbers = localStorage.getItem("lora-studio-token-ids") === "yes", problem = null;

  /** Some pictures, others at each draw: from the used ones, evenly over the set. */
  function some() {
    const all = pictures.all.filter(used), count = Math.min(SHOWN, all.length), start = (seed - 1) * 7;
    return Array.from({ length: count }, (_, place) => all[(start + Math.floor((place * all.length) / count)) % all.length].id);
  }
  async function sample() {
    const project = state.project, mine = seed;
    problem = null;
    try {
      const answer = await call("seen.sample", { project, ids: some(), seed: mine }, { quiet: true });
      if (project !== state.project || mine !== seed) return;
      found = answer;
    } catch (error) {
      if (!(error instanceof Failure)) throw error;
      problem = error;
    }
    drawHead();
    drawList();
  }
  const again = () => { seed += 1; return sample(); };
  async function check() {
    const project = state.project;
    try {
      const answer = await call("seen.trigger", { project }, { quiet: true });
      if (project !== state.project) return;
      trigger = answer.check;
      reaction = answer.reaction;
    } catch (error) {
      if (!(error instanceof Failure)) throw error;
      trigger = { level: "warn", text: error.message, remedy: error.remedy, pieces: {} };
    }
    drawCard();
  }

  // ---- captions -------------------------------------------------------------------------------------------------------

  function drawHead() {
    const told = found ? found.settings : [];
    fill(head, button("Draw again", again, { icon: "undo", id: "ls-seen-again", title: "Another throw of the dice (N)" }),
      h("label.ls-seen-switch", null, h("input", { type: "checkbox", id: "ls-seen-ids", checked: numbers, onchange: (event) => { numbers = event.target.checked; localStorage.setItem("lora-studio-token-ids", numbers ? "yes" : "no"); drawList(); } }), "Tokens"),
      h("span.ls-seen-settings", null, told.map((text) => h("span.ls-badge", null, text))), h("div.ls-fill"), h("button.ls-link", { type: "button", onclick: () => go(state.project, "training") }, "Change in Training"));
  }

  /** The caption with its trigger marked and what no encoder reads greyed out. */
  function text(row) {
    if (!row.text) return h("span.ls-faint", null, "no caption this time: it is dropped, so that the model stays free");
    const kept = row.text.slice(0, row.kept), cut = row.text.slice(row.kept);
    const word = found.trigger, first = word && kept.toLowerCase().startsWith(word.toLowerCase()) ? word.length : 0;
    return [first > 0 && h("mark.ls-seen-trigger", null, kept.slice(0, first)), kept.slice(first), cut && [h("span.ls-cut", { title: "From here on the text encoder reads nothing" }, "✂"), h("s.ls-unread", null, cut)]];
  }
  function pieces(row) {
    return Object.entries(row.pieces).map(([encoder, all]) => h("div.ls-tokens", { "data-encoder": encoder }, h("span.ls-faint", null, encoder),
      h("span.ls-token-row", null, all.map((piece, place) => h("span.ls-token" + (place >= row.limits[encoder] ? ".unread" : ""), { title: `token ${row.ids[encoder][place]}` }, h("span", null, piece), h("i", null, String(row.ids[encoder][place])))))));
  }
  function rowOf(row) {
    const image = pictures.byId.get(row.id);
    const counts = Object.entries(row.counts).map(([encoder, count]) => h("span" + (count > row.limits[encoder] ? ".ls-over" : ""), { title: encoder }, `${Object.keys(row.counts).length > 1 ? `${encoder} ` : ""}${number(count)} of ${number(row.limits[encoder])}`));
    return h("article.ls-seen-row", { "data-id": row.id }, image ? h("img", { src: thumb(image), alt: "", loading: "lazy" }) : h("span"),
      h("div.ls-seen-body", null, h("p.ls-seen-text", null, text(row)),
        row.dropped.length > 0 && h("div.ls-seen-dropped", null, h("span.ls-faint", null, "left out this time"), row.dropped.map((tag) => h("s", null, tag))),
        numbers && pieces(row)),
      h("div.ls-seen-facts", null, h("span.ls-name", { title: image ? image.name : "" }, `#${row.id}`), h("span", null, `epoch ${row.epoch}`), counts.length ? [h("span", null, "tokens"), counts] : null));
  }
  function drawList() {
    if (problem) { fill(list, h("div.ls-empty", null, icon("warn", 28), h("h3", null, problem.message), h("p", null, problem.remedy), button("Try again", sample))); return; }
    if (!pictures.all.some(used)) { fill(list, h("div.ls-empty", null, icon("image", 30), h("h3", null, "No pictures yet"), h("p", null, "Gather some first."))); return; }
    if (!found) { fill(list, [1, 2, 3, 4].map(() => h("div.ls-skeleton"))); return; }
    fill(list, h("p.ls-muted.ls-seen-lead", null, "The same captions as training reads them: shuffled, thinned out and cut as its settings say, a new throw of the dice each time a picture comes up."), found.note && h("div.ls-note.warn", null, h("span", null, found.note)), found.rows.map(rowOf));
  }

  // ---- the trigger ----------------------------------------------------------------------------------------------------

  function drawCard() {
    if (!trigger) { fill(card, h("div.ls-skeleton")); return; }
    if (!trigger.word) { fill(card, h("h2", null, "Trigger"), h("div.ls-note.warn", null, h("span", null, trigger.text)), h("p.ls-muted", null, trigger.remedy), button("Name one in Conception", () => go(state.project, "conception"))); return; }
    const yes = (bad, good, ill) => h("div.ls-trigger-fact" + (bad ? ".warn" : ".good"), null, icon(bad ? "warn" : "check", 14), bad ? ill : good);
    fill(card, h("h2", null, "Trigger"), h("div.ls-trigger-word", null, trigger.word),
      h("section", null, h("h3", null, "How the base reads it"), Object.entries(trigger.pieces).map(([encoder, all]) => h("div.ls-tokens", null, h("span.ls-faint", null, encoder), h("span.ls-token-row", null, all.map((piece) => h("span.ls-token", null, h("span", null, piece)))))),
        yes(trigger.split, "One token: the model can hold on to it", "Cut into pieces: usual for made-up words"), yes(trigger.common, "No common word: free of other meanings", "A common word: it means something already")),
      h("section", null, h(`div.ls-note.${trigger.level}`, null, h("span", null, trigger.text)), trigger.remedy && h("p.ls-muted", null, trigger.remedy)),
      h("section", { id: "ls-react" }, h("h3", null, "Does the base react to it?"), reactionPart()));
  }
  function reactionPart() {
    const begin = (text) => button(text, async () => { await call("seen.react", { project: state.project }); await check(); }, { kind: reaction ? "quiet" : "", icon: "play", id: "ls-react-go" });
    if (!reaction) return [h("p.ls-muted", null, "Draws the same pictures with and without the word, before any training. If they differ, the word means something to the base."), begin("Draw and compare")];
    if (!ENDED.includes(reaction.state)) {
      return h("div.ls-running", null, h("p.ls-muted", null, reaction.state === "queued" ? "Waiting for another job to end" : reaction.text || "Starting"), h("span.ls-bar" + (reaction.total ? "" : ".endless"), null, h("span", { style: `width:${reaction.total ? (100 * reaction.done) / reaction.total : 0}%` })),
        button("Stop", () => call("job.command", { project: state.project, group: "jobs", job: reaction.id, word: "stop" }), { kind: "quiet small", icon: "stop" }));
    }
    if (reaction.error) return [h("div.ls-problem", null, h("b", null, "It could not be tried. "), reaction.error, " ", h("span.ls-muted", null, reaction.remedy)), begin("Try again")];
    return [reaction.text && h(`div.ls-note.${reaction.level}`, { id: "ls-react-verdict" }, h("span", null, reaction.text)), reaction.advice && h("p.ls-muted", null, reaction.advice),
      h("div.ls-react-pairs", null, h("span.ls-faint", null, `without ${trigger.word}`), h("span.ls-faint", null, `with ${trigger.word}`), (reaction.pictures || []).map((pair) => pair.map((address) => h("img", { src: address, alt: "", loading: "lazy" })))), begin("Draw them again")];
  }

  function draw(node) {
    if (!root.isConnected || root.parentElement !== node) fill(node, root);
    const stamp = `${state.project} ${pictures.project} ${pictures.revision}`;
    if (stamp === asked || !pictures.loaded) return;
    if (!asked.startsWith(`${state.project} `)) { found = trigger = reaction = null; seed = 1; }
    asked = stamp;
    drawHead(); drawList(); drawCard();
    if (pictures.all.some(used)) sample().catch(() => {});
    check().catch(() => {});
  }
  poll(root, 1.5, async () => { if (reaction && !ENDED.includes(reaction.state)) await check(); });
  /** N draws anew. */
  const onKey = (event) => { if (event.key.toLowerCase() !== "n") return false; again().catch(() => {}); return true; };
  return { name: "seen", title: "As trained", draw, onKey };
}
