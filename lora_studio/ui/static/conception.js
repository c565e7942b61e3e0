// Conception: the three samples to begin with, and the recommended recipe beside the plan.
import { button, call, fill, go, h, icon, part, plural, showing, state, toast } from "./core.js";
import { refresh } from "./shell.js";

const WHAT = {
  character: "Teaches one person or being, to put into any picture.",
  style: "Teaches a way of drawing, for any subject.",
  concept: "Teaches one thing or idea, for anybody to wear or do.",
};

function card(sample) {
  const covers = sample.covers.map((name) => h("img", { src: `/media/samples/${sample.kind}/${encodeURIComponent(name)}`, alt: "", loading: "lazy" }));
  const start = button([h("span", null, "Try it"), icon("right", 13)], async () => {
    const slug = await call("conception.sample", { kind: sample.kind });
    await refresh();
    go(slug, "conception");
    await refresh();
    toast(`${sample.name} is yours to play with.`, { remedy: "Read the plan, then go on with Next." });
  }, { kind: "primary", label: `Try the ${sample.kind} sample` });
  return h("article.ls-card.ls-sample", { id: `ls-sample-${sample.kind}` },
    h("div.ls-covers", null, covers),
    h("div.ls-sample-text", null, h("div.ls-label", null, sample.kind), h("h3", null, sample.name),
      h("p", null, sample.title || WHAT[sample.kind]), h("p.ls-muted", null, `${plural(sample.pictures, "raw picture")} · trained in minutes`), start));
}

part("samples", async (root) => {
  const cards = h("div.ls-samples", null, [1, 2, 3].map(() => h("div.ls-card.ls-sample", null, h("div.ls-skeleton"))));
  fill(root, h("header.ls-welcome", null, h("h2", null, "Teach a model something new"),
    h("p.ls-muted", null, "Six steps lead from a pile of pictures to a LoRA you can use anywhere. Learn the way with a sample, or start your own.")), cards);
  const found = await call("conception.samples");
  fill(cards, found.map(card));
  if (!found.length) fill(cards, h("div.ls-empty", null, h("p", null, "The sample projects are not installed. You can still start your own below.")));
});

function shown(value) {
  if (Array.isArray(value)) return value.join(", ") || "–";
  if (typeof value === "boolean") return value ? "on" : "off";
  if (typeof value === "number" && value !== 0 && Math.abs(value) < 0.001) return value.toExponential(0).replace("e-", "e-");
  return String(value).replaceAll("_", " ");
}

part("recipe", (root) => {
  let wish = "balanced";
  async function draw() {
    if (!state.project || state.step !== "conception" || !showing(root)) return;
    if (!root.firstChild) fill(root, h("div.ls-skeleton"), h("div.ls-skeleton"));
    const { preset, rows } = await call("conception.recipe", { project: state.project, wish });
    const choose = (name) => h("button.ls-segment" + (name === wish ? ".current" : ""), { type: "button", "aria-pressed": String(name === wish), onclick: () => { wish = name; draw(); } }, name[0].toUpperCase() + name.slice(1));
    fill(root, h("h2", null, "Recommended recipe"),
      h("p.ls-muted", null, `From the preset ${preset}, fitted to your plan and pictures. Change it any time in Training.`),
      h("div.ls-segments", { role: "group", "aria-label": "Wish" }, ["speed", "balanced", "quality"].map(choose)),
      h("table.ls-recipe", null, h("tbody", null, rows.map((row) => h("tr", { title: row.doc },
        h("th", { scope: "row" }, row.title), h("td", null, h("div.ls-value", null, shown(row.value)), row.reason && h("div.ls-muted", null, row.reason)))))));
  }
  window.addEventListener("ls:go", draw);
  window.addEventListener("ls:overview", () => { if (!root.querySelector("table")) draw(); });
  window.addEventListener("ls:changed", draw);
  draw();
});
