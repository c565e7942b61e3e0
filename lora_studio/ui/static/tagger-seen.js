// "As trained": the captions as training will show them, and what the base's tokenizer makes of the trigger.
import { Failure, button, call, fill, go, h, icon, number, plural, poll, refill, state, thumb } from "./core.js";
import { load, pictures, used } from "./pictures.js";

const SHOWN = 12; // captions of one draw
const EPOCHS = 8; // of one picture
const LEVELS = { ok: "good", note: "info", warn: "warn" };
const ENDED = ["done", "stopped", "failed", "interrupted"];

/** {name, title, draw(node)}: a view of the Tagging tab. draw(node) fills `node`; call it again when pictures changed. */
export function seenView() {
  const root = h("div.ls-seen");
  const head = h("div.ls-toolbar"), list = h("div.ls-seen-list"), card = h("aside.ls-side.ls-trigger-card", { "aria-label": "Trigger" });
  fill(root, h("div.ls-pane", null, head, list), card);
  let seed = 0, only = 0, found = null, trigger = null, reaction = null, asked = "", numbers = localStorage.getItem("lora-studio-token-ids") === "yes", problem = null;

  async function sample() {
    const project = state.project, mine = `${seed} ${only}`;
    problem = null;
    try {
      const answer = await call("seen.sample", { project, ids: only ? [only] : null, count: only ? EPOCHS : Math.max(1, Math.min(SHOWN, pictures.all.filter(used).length)), seed: seed || null }, { quiet: true });
      if (project !== state.project || mine !== `${seed} ${only}`) return;
      found = answer;
      list.scrollTop = 0;
    } catch (error) {
      if (!(error instanceof Failure)) throw error;
      problem = error;
    }
    drawHead();
    drawList();
  }
  /** One picture through the epochs, or again some of all. */
  const show = (id) => { only = only === id ? 0 : id; return sample(); };
  const again = () => { seed = seed % 1_000_000 + 1; return sample(); };
  async function check() {
    const project = state.project;
    try {
      const answer = await call("seen.trigger", { project }, { quiet: true });
      if (project !== state.project) return;
      trigger = answer.check;
      reaction = answer.trial;
    } catch (error) {
      if (!(error instanceof Failure)) throw error;
      trigger = { level: "warn", text: error.message, remedy: error.remedy };
    }
    drawCard();
  }

  // ---- captions -------------------------------------------------------------------------------------------------------

  function drawHead() {
    const told = found ? found.settings : [];
    refill(head, button("Draw again", again, { icon: "undo", id: "ls-seen-again", title: "Another throw of the dice (N)" }),
      h("button.ls-chip-button" + (numbers ? ".current" : ""), { type: "button", id: "ls-seen-ids", "aria-pressed": String(numbers), title: "The tokens that the text encoder is given, with their numbers", onclick: () => { numbers = !numbers; localStorage.setItem("lora-studio-token-ids", numbers ? "yes" : "no"); drawHead(); drawList(); } }, "Tokens"),
      h("span.ls-seen-settings", null, told.map((text) => h("span.ls-badge", null, text))), h("button.ls-link", { type: "button", title: "These are settings of the training", onclick: () => go(state.project, "training") }, "Change"));
  }

  /** The caption with its trigger marked and what no encoder reads greyed out. */
  function text(row) {
    if (!row.text) return h("span.ls-faint", null, "no caption this time: the picture is shown without words");
    const word = found.trigger, first = word && row.read.toLowerCase().startsWith(word.toLowerCase()) ? word.length : 0;
    return [first > 0 && h("mark.ls-seen-trigger", null, row.read.slice(0, first)), row.read.slice(first), row.unread && [h("span.ls-cut", { title: "From here on nothing is read" }, "✂"), h("s.ls-unread", null, row.unread)]];
  }
  function pieces(row) {
    return Object.entries(row.pieces).map(([encoder, all]) => h("div.ls-tokens", { "data-encoder": encoder }, h("span.ls-faint", null, encoder),
      h("span.ls-token-row", null, all.map((piece, place) => h("span.ls-token" + (place >= row.limit ? ".unread" : ""), null, h("span", null, piece), h("i", null, String(row.ids[encoder][place])))))));
  }
  function rowOf(row) {
    const image = pictures.byId.get(row.id), name = image ? image.name : `picture ${row.id}`;
    const counts = Object.entries(row.counts), alike = new Set(counts.map(([, count]) => count)).size === 1;
    return h("article.ls-seen-row", { "data-id": row.id },
      h("button.ls-seen-picture", { type: "button", title: only ? "All pictures again" : `${name}: only this one, epoch by epoch`, "aria-label": only ? "All pictures" : `Only ${name}`, "aria-pressed": String(Boolean(only)), onclick: () => show(row.id).catch(() => {}) }, image ? h("img", { src: thumb(image), alt: "", loading: "lazy" }) : null),
      h("div.ls-seen-body", null, h("p.ls-seen-text", null, text(row)),
        row.dropped.length > 0 && h("div.ls-seen-dropped", null, h("span.ls-faint", null, "left out this time"), row.dropped.map((tag) => h("s", null, tag))),
        numbers && pieces(row)),
      h("div.ls-seen-facts", null, h("span.ls-name", { title: name }, `#${row.id}`), h("span", null, `epoch ${row.epoch}`),
        (alike ? counts.slice(0, 1) : counts).map(([encoder, count]) => h("span" + (count > row.limit ? ".ls-over" : ""), { title: encoder }, `${alike ? "" : `${encoder} `}${number(count)} / ${number(row.limit)}`))));
  }
  function drawList() {
    if (problem) { fill(list, h("div.ls-empty", null, icon("warn", 28), h("h3", null, problem.message), h("p", null, problem.remedy), button("Try again", sample))); return; }
    if (!pictures.all.some(used)) { fill(list, h("div.ls-empty", null, icon("image", 30), h("h3", null, "No pictures yet"), h("p", null, "Gather some first."))); return; }
    if (!found) { fill(list, [1, 2, 3, 4].map(() => h("div.ls-skeleton"))); return; }
    fill(list, h("p.ls-muted.ls-seen-lead", null, only ? "One picture, epoch by epoch. " : seed ? "Another throw of the dice. " : "What the first epoch shows, as the project is set now. ", only ? h("button.ls-link", { type: "button", onclick: () => show(only) }, "All pictures") : "A click on a picture shows it epoch by epoch."), found.note && h("div.ls-note.warn", null, h("span", null, found.note)), found.rows.map(rowOf));
  }

  // ---- the trigger ----------------------------------------------------------------------------------------------------

  function drawCard() {
    if (!trigger) { fill(card, h("div.ls-skeleton")); return; }
    if (!trigger.word) { fill(card, h("h2", null, "Trigger"), h("div.ls-note.warn", null, h("span", null, trigger.text)), h("p.ls-muted", null, trigger.remedy), button("To Conception", () => go(state.project, "conception"))); return; }
    const fact = (level, sign, ...text) => h(`div.ls-trigger-fact.${level}`, null, icon(sign, 14), h("span", null, text));
    const known = Object.entries(trigger.pieces), alike = new Set(known.map(([, all]) => all.join(" "))).size === 1;
    fill(card, h("h2", null, "Trigger"), h("div.ls-trigger-word", null, trigger.word),
      h("section", null, h("h3", null, "How the base reads it"), (alike ? known.slice(0, 1) : known).map(([encoder, all]) => h("div.ls-tokens", null, h("span.ls-faint", null, alike ? known.map(([name]) => name).join(", ") : encoder), h("span.ls-token-row", null, all.map((piece) => h("span.ls-token", null, h("span", null, piece)))))),
        known.length ? fact(trigger.split ? "plain" : "good", trigger.split ? "more" : "check", trigger.split ? "In pieces, as made-up words are" : "One token") : null,
        fact(trigger.common ? "warn" : "good", trigger.common ? "warn" : "check", trigger.common ? "A common word" : "No common word")),
      h("section", { id: "ls-trigger-verdict" }, h(`div.ls-note.${LEVELS[trigger.level]}`, null, h("span", null, trigger.text)), trigger.remedy && h("p.ls-muted", null, trigger.remedy), trigger.reasons.length > 1 && h("details.ls-more", null, h("summary", null, "Word by word"), h("ul.ls-wishes", null, trigger.reasons.map((one) => h("li", null, one))))),
      h("section", { id: "ls-react" }, h("h3", null, "Does the base react to it?"), reactionPart()));
  }
  function reactionPart() {
    const begin = (text) => button(text, async () => { await call("seen.react", { project: state.project }); await check(); }, { kind: reaction ? "quiet" : "", icon: "play", id: "ls-react-go" });
    if (!reaction) return [h("p.ls-muted", null, "Draws with the word and without it, before any training. If the pictures differ, the word means something to the base."), begin("Draw and compare")];
    const pairs = reaction.pairs.length > 0 && h("div.ls-react-pairs", null, h("span.ls-faint", null, "without the word"), h("span.ls-faint", null, `with ${trigger.word}`), reaction.pairs.map((pair) => [pair.without, pair.with].map((address) => h("img", { src: address, alt: "", title: pair.context || "the word alone", loading: "lazy" }))));
    if (!ENDED.includes(reaction.state)) {
      return [h("div.ls-running", null, h("span", null, reaction.state === "queued" ? "Starting, or waiting for another job" : reaction.text || "Starting"), h("span.ls-bar" + (reaction.total ? "" : ".endless"), null, h("span", { style: `width:${reaction.total ? (100 * reaction.done) / reaction.total : 0}%` })),
        button("Stop", () => call("job.command", { project: state.project, group: "jobs", job: reaction.id, word: "stop" }), { kind: "quiet small", icon: "stop" })), pairs];
    }
    if (!reaction.verdict) return [h("div.ls-problem", null, h("b", null, reaction.state === "stopped" ? "Stopped before it was known." : "It could not be tried."), h("span", null, reaction.error), h("span.ls-muted", null, reaction.error ? reaction.remedy : "")), begin("Try again")];
    return [h(`div.ls-note.${reaction.level}`, { id: "ls-react-verdict" }, h("span", null, reaction.verdict)), reaction.advice && h("p.ls-muted", null, reaction.advice), pairs, begin("Draw again")];
  }

  function draw(node) {
    if (!root.isConnected || root.parentElement !== node) fill(node, root);
    const stamp = `${state.project} ${pictures.project} ${pictures.revision}`;
    if (stamp === asked || !pictures.loaded) return;
    if (!asked.startsWith(`${state.project} `)) { found = trigger = reaction = null; seed = only = 0; }
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
