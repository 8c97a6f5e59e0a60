// The station's page. What the station says becomes text only, never markup.
"use strict";
const LIMIT = 60; // parts that are shown
const MOST_PIXELS = 4e6; // of a map on the screen; larger pictures are shrunk for it
const TOKEN = "This needs the station's token: open the link that its log shows.";
const $ = (id) => document.getElementById(id);
let model, state, corrections = [];
let parts = [], fresh = []; // newest first; those that came while the list was asked for
let part = null, following = true; // the one that is shown; whether the newest takes its place
let drawn = "", loading = false; // id of the part whose picture is drawn or on its way
let tried = null; // a threshold that is looked at; null: that of the station
let strokes = [], marked = null; // of the brush; a canvas with the region that the model marks
const mine = []; // ids of the corrections made here: the last is undone first

// Text as the report shows it: what cannot be printed is an escape.
const plain = (text) => String(text).replace(/[\p{C}\p{Z}]/gu, (c) => (
  c === " " ? c : `\\u${c.codePointAt(0).toString(16).padStart(4, "0")}`));
const number = (value) => (value === null ? "none" : String(Number(value.toPrecision(4))));
const clock = (time) => new Date(time * 1000).toLocaleString("en-GB", {
  timeStyle: "medium", ...(Date.now() / 1000 - time > 43200 && {dateStyle: "short"})});
const threshold = () => tried ?? state.threshold;
const verdict = (score, cut) => (score >= cut ? "defective" : "good");
const called = (one) => (one.error ? "unreadable"
  : threshold() === null ? "no verdict" : verdict(one.score, threshold()));
const corrected = (one) => corrections.find((word) => word.part === one.id);

function make(name, content = [], style = "", more = {}) {
  const made = Object.assign(document.createElement(name), {className: style, ...more});
  made.append(...[content].flat().map((c) => (c instanceof Node ? c : plain(c))));
  return made;
}
function write(id, text, style = $(id).className) { // only changes, for what is read out
  if ($(id).textContent !== plain(text)) $(id).textContent = plain(text);
  $(id).className = style;
}
const act = (work) => async (...given) => {
  try { await work(...given); } catch (error) {
    const silent = error instanceof TypeError; // of fetch
    write("told", silent ? "The station does not answer." : error.message, "wrong");
  }
};
async function ask(path, method = "GET", values = undefined) {
  const body = values && JSON.stringify(values);
  const answer = await fetch(path, {method, body, headers: {"Content-Type": "application/json"}});
  const said = await answer.json().catch(() => ({}));
  if (answer.status === 401) throw Error(TOKEN);
  if (!answer.ok) throw Error(said.error ?? `The station answered ${answer.status}.`);
  return said;
}

// ---- what comes from the station
async function load() {
  fresh = [];
  const paths = ["model", "state", `parts?limit=${LIMIT}`, "corrections"];
  const [itself, now, last, words] = await Promise.all(paths.map((path) => ask(path)));
  [model, state, parts, corrections] = [itself, now, last.parts, words.corrections];
  fresh.forEach(add);
  const pen = $("scale").getContext("2d"), row = pen.createImageData(256, 1);
  model.colours.forEach((colour, i) => row.data.set([...colour, 255], 4 * i));
  pen.putImageData(row, 0, 0);
  const middle = model.pixel_threshold && `threshold of pixels ${number(model.pixel_threshold)}`;
  const marks = ["0", middle, number(model.scale)].filter(Boolean);
  $("marks").replaceChildren(...marks.map((text) => make("span", text)));
  draw();
}
function add(one) {
  parts = [one, ...parts.filter((other) => other.id !== one.id)].slice(0, LIMIT);
}
function listen() {
  const events = new EventSource("events");
  const on = (kind, work) => events.addEventListener(kind, act(work));
  on("open", async () => { await load(); write("live", "live", "on"); });
  on("part", ({data}) => { fresh.push(JSON.parse(data)); add(fresh.at(-1)); draw(); });
  on("state", async ({data}) => {
    state = JSON.parse(data);
    if (state.corrections !== corrections.length) ({corrections} = await ask("corrections"));
    draw();
  });
  on("error", async () => {
    write("live", "not connected, trying again", "");
    if (events.readyState !== EventSource.CLOSED) return; // the browser tries again by itself
    setTimeout(listen, 3000);
    await ask("state"); // says why
  });
}

// ---- drawing, at most once a frame
let due = false;
function draw() {
  if (due || !model) return;
  due = true;
  requestAnimationFrame(() => {
    due = false;
    if (parts.length && !loading && (following || !part)) part = parts[0];
    for (const one of [drawHead, drawList, drawPart, drawThreshold, drawWords]) one();
  });
}
function drawHead() {
  const {counts, drift, problems, watching, ready} = state;
  document.title = `${plain(model.category)}: station`;
  write("category", model.category);
  write("counts", Object.entries(counts).filter(([kind, n]) => n || /good|defective/.test(kind))
    .map(([kind, n]) => `${n.toLocaleString("en")} ${kind}`).join(" · "));
  write("corrected", corrections.length);
  const notices = Object.entries(problems).map(([key, text]) => `${key}: ${text}`);
  if (!ready && !notices.length) notices.push("The station is not ready.");
  if (drift?.since) notices.push(`Drift since ${clock(drift.since)}: of the parts judged good, the `
    + `${drift.drifted.join(", ")} no longer fit the good pictures of the evaluation.`);
  if ($("notices").textContent !== notices.map(plain).join(""))
    $("notices").replaceChildren(...notices.map((text) => make("p", text)));
  const seen = drift && `in the last ${Math.min(drift.parts, drift.window)} parts judged good`;
  write("about", [`Model: ${model.kind}, step ${model.step}, ${model.size} px, ${model.program}, ${
    model.precision}, threshold ${number(model.threshold)}`, watching && `Watched: ${watching}`,
    `Drift: ${drift ? `${drift.since ? "yes" : "none"} ${seen}` : "not watched"}`]
    .filter(Boolean).join(". "));
}
function drawList() {
  const old = new Map([...$("list").children].map((item) => [item.dataset.id, item]));
  const items = parts.map((one) => {
    const item = old.get(one.id) ?? thumbnail(one), button = item.firstChild, now = called(one);
    const word = corrected(one), note = word ? `corrected: ${word.verdict}`
      : one.verdict && one.verdict !== now ? `was ${one.verdict}` : "";
    const lines = [one.error ? "" : number(one.score), note].map((text) => make("small", text));
    const label = make("span", [now, ...lines], `is-${now}`);
    if (button.lastChild.outerHTML !== label.outerHTML) button.lastChild.replaceWith(label);
    button.tabIndex = one.id === part?.id ? 0 : -1;
    button.ariaCurrent = String(one.id === part?.id);
    return item;
  });
  if (items.length !== old.size || items.some((item, i) => item !== $("list").children[i]))
    $("list").replaceChildren(...items);
  $("follow").ariaPressed = String(following);
}
function thumbnail(one) {
  const look = {loading: "lazy", decoding: "async", alt: "", src: one.picture};
  const inner = [...(one.picture ? [make("img", [], "", look)] : []), make("span")];
  const title = `${plain(one.name)}, ${clock(one.time)}`;
  const item = make("li", make("button", inner, "", {type: "button", title}));
  item.firstChild.addEventListener("click", () => show(one));
  item.dataset.id = one.id;
  return item;
}
function drawPart() {
  $("good").disabled = $("defective").disabled = !part || !!part.error;
  if (!part) return;
  const cut = threshold(), word = corrected(part), {score} = part, {slope} = model;
  const sure = tried === null ? part.confidence : slope && 1 / (1 + (cut / score) ** slope);
  write("verdict", called(part), `is-${called(part)}`);
  write("name", part.name);
  write("facts", part.error ?? [`score ${number(score)}`, `threshold ${number(cut)}`,
    sure !== null && `confidence ${sure.toFixed(2)}`, clock(part.time),
    word && `corrected: ${word.verdict}`].filter(Boolean).join(" · "));
  if (drawn !== part.id) act(drawPicture)(part);
}
async function drawPicture(one) {
  [drawn, loading, strokes, marked] = [one.id, true, [], null];
  const loaded = async (kind) => {
    const alt = plain(`${kind} of ${one.name}`), hidden = !one[kind];
    const image = make("img", [], "", {id: kind, src: one[kind] ?? "data:,", alt, hidden});
    if (!hidden) await image.decode().catch(() => { throw Error("This part is not kept."); });
    return image;
  };
  try {
    const kinds = ["picture", "reconstruction", "map"];
    const [image, repaint, map] = await Promise.all(kinds.map(loaded));
    if (drawn !== one.id) return; // another one is shown by now
    $("picture").replaceWith(image);
    $("reconstruction").replaceWith(repaint);
    $("overlay").hidden = !one.map;
    if (one.picture) $("stage").style.setProperty("--ratio", one.width / one.height);
    if (one.map) drawMap(image, map, one.boxes);
    write("told", "");
    paint();
  } finally {
    if (drawn === one.id) loading = false;
    draw();
  }
}
function canvas(made, width, height) {
  Object.assign(made, {width, height});
  return made.getContext("2d", {willReadFrequently: true});
}
function drawMap(image, map, boxes) { // the overlay and the frames of reporting/drawing.py
  const {naturalWidth: width, naturalHeight: height} = image;
  const shrink = Math.min(1, Math.sqrt(MOST_PIXELS / (width * height)));
  const pens = [$("overlay"), make("canvas")].map((one) =>
    canvas(one, Math.ceil(width * shrink), Math.ceil(height * shrink)));
  const [laid, region] = pens.map((pen, i) => {
    pen.scale(shrink, shrink);
    pen.drawImage(i ? map : image, 0, 0, width, height);
    return pen.getImageData(0, 0, pen.canvas.width, pen.canvas.height);
  });
  for (let i = 0; i < laid.data.length; i += 4) {
    const [red, green, blue] = laid.data.subarray(i), value = region.data[i];
    const opacity = 0.85 * Math.min(1.5 * value / 255, 1), colour = model.colours[value];
    const grey = (1 - opacity) * (0.299 * red + 0.587 * green + 0.114 * blue);
    for (let k = 0; k < 3; k++) laid.data[i + k] = grey + opacity * colour[k];
    region.data[i + 3] = value > 127 ? 255 : 0; // the middle: the threshold of pixels
  }
  pens[0].putImageData(laid, 0, 0);
  pens[1].putImageData(region, 0, 0);
  marked = model.pixel_threshold ? pens[1].canvas : null;
  pens[0].strokeStyle = "#2fe6e6";
  const line = pens[0].lineWidth = Math.max(1, Math.min(width, height) / 250);
  for (const box of boxes)
    pens[0].strokeRect(box.x - line / 2, box.y - line / 2, box.width + line, box.height + line);
}
function drawThreshold() {
  const cut = threshold(), now = state.threshold, trying = tried !== null && now !== null;
  const {good = [], defective = []} = model.evaluation ?? {}, all = [...good, ...defective];
  const scores = parts.filter((one) => !one.error).map((one) => one.score);
  const top = Math.min(1, 1.05 * Math.max(...all, ...scores, now ?? 0, 1e-6));
  $("slider").max = top;
  for (const id of ["slider", "number"])
    if (cut !== null && Number($(id).value) !== cut) $(id).value = cut;
  write("highest", number(top));
  const rows = {defective, good, last: scores, cut: cut === null ? [] : [cut]};
  for (const [id, list] of Object.entries(rows))
    $(`row-${id}`).setAttribute("d", list.map((score) => `M${400 * score / top} 0v40`).join(""));
  const changed = (list) => list.filter((s) => verdict(s, cut) !== verdict(s, now)).length;
  write("would", trying ? `${changed(scores)} of the ${scores.length} parts shown and ${
    changed(all)} of the evaluation's ${all.length} pictures would be judged otherwise.` : "");
  const alarms = (t) => good.filter((score) => score >= t).length;
  const missed = (t) => defective.filter((score) => score < t).length;
  const both = (of) => (trying ? `${of(now)} → ${of(cut)}` : of(cut));
  write("mistakes", !all.length ? "The model came without the scores of its evaluation."
    : cut === null ? "" : `On the evaluation's own pictures: false alarms ${both(alarms)} of ${
      good.length} good, missed ${both(missed)} of ${defective.length} defective.`);
  $("keep").disabled = $("back").disabled = tried === null;
  write("back", `Back to ${number(now)}`);
}
function drawWords() {
  const here = location.hash === "#corrections", ids = corrections.map((word) => word.id).join();
  [$("parts").hidden, $("corrections").hidden] = [here, !here];
  [$("to-parts").ariaCurrent, $("to-corrections").ariaCurrent] = [!here, here].map(String);
  $("none").hidden = corrections.length > 0;
  if (!here || $("words").dataset.ids === ids) return;
  $("words").dataset.ids = ids;
  $("words").replaceChildren(...corrections.map((word) => {
    const place = `corrections/${word.id}`, region = make("div", [], "region");
    if (word.mask) region.style.maskImage = `url("${place}/mask")`;
    const look = {loading: "lazy", src: `${place}/picture`, alt: plain(word.name)};
    const remark = word.said === null ? "" : word.said === word.verdict ? "confirmed"
      : word.verdict === "good" ? "false alarm: called defective" : "missed: called good";
    const away = make("button", "Withdraw", "", {type: "button"});
    away.addEventListener("click", act(() => confirm("Withdraw it?") && withdraw(word.id)));
    return make("li", [
      make("figure", [make("img", [], "", look), ...(word.mask ? [region] : [])]),
      make("strong", word.verdict, `is-${word.verdict}`), make("p", remark), make("p", word.name),
      make("p", `score ${number(word.score)}, ${clock(word.time)}`, "faint"), away]);
  }));
}

// ---- what a person does
function show(one, follow = false) {
  [part, following] = [one ?? part, follow];
  draw();
}
const step = (by) => show(parts[Math.max(0, parts.findIndex((one) => one.id === part?.id) + by)]);
function paint(on = $("mask"), colour = "#2fe6e6", shrink = Math.min(1, 1024 / part.width)) {
  const pen = canvas(on, part.width * shrink, part.height * shrink);
  pen.scale(shrink, shrink);
  pen.lineCap = pen.lineJoin = "round";
  for (const {points, width, erases, region} of strokes) {
    pen.globalCompositeOperation = erases ? "destination-out" : "source-over";
    if (region) pen.drawImage(region, 0, 0, part.width, part.height);
    pen.lineWidth = width;
    pen.beginPath();
    for (const [x, y] of points) pen.lineTo(x, y);
    pen.stroke();
  }
  [pen.fillStyle, pen.globalCompositeOperation] = [colour, "source-in"];
  pen.fillRect(0, 0, part.width, part.height);
  return pen;
}
function mask() { // white where painted, at the picture's own size
  const pen = paint(make("canvas"), "#fff", 1);
  [pen.fillStyle, pen.globalCompositeOperation] = ["#000", "destination-over"];
  pen.fillRect(0, 0, part.width, part.height);
  return pen.canvas.toDataURL("image/png");
}
async function correct(said) {
  if ($("good").disabled) return;
  const region = said === "defective" && strokes.length ? mask() : null;
  const one = await ask("corrections", "POST", {part: part.id, verdict: said, mask: region});
  mine.push(one.id);
  await changed(`Stored: ${one.name} is ${said}${region ? ", with its region" : ""}.`);
  brush(false);
}
async function withdraw(id) {
  await ask(`corrections/${id}`, "DELETE");
  await changed("The correction is withdrawn.");
}
async function changed(words) {
  ({corrections} = await ask("corrections"));
  write("told", words, "");
  draw();
}
async function undo() {
  if (strokes.pop()) paint(); else if (mine.length) await withdraw(mine.pop());
}
function brush(on) {
  $("stage").classList.toggle("brushing", on);
  $("brush").ariaPressed = String(on);
  $("brushing").hidden = !on;
  if (!on && part) { strokes = []; paint(); }
  show(part, following && !on);
}
function opacity(by = 0) {
  $("opacity").value = Number($("opacity").value) + by;
  $("overlay").style.opacity = $("opacity").value;
}
function attempt(value) {
  tried = value === "" || Number(value) === state.threshold ? null : Number(value);
  draw();
}
async function keep() {
  state = await ask("threshold", "POST", {threshold: tried});
  attempt("");
}
function stroke(event) {
  if (event.button || !part?.map || $("brushing").hidden) return;
  event.preventDefault();
  $("stage").setPointerCapture(event.pointerId);
  const width = $("width").value / 100 * Math.min(part.width, part.height);
  strokes.push({points: [], width, erases: event.shiftKey || $("eraser").checked});
  trace(event);
}
function trace({pointerId, clientX, clientY}) {
  if (!$("stage").hasPointerCapture(pointerId)) return;
  const {left, top, width, height} = $("mask").getBoundingClientRect();
  const [x, y] = [(clientX - left) / width * part.width, (clientY - top) / height * part.height];
  strokes.at(-1).points.push([x, y]);
  paint();
}
const KEYS = {
  ArrowLeft: () => step(-1), ArrowRight: () => step(1), Home: () => show(parts[0], true),
  g: act(() => correct("good")), d: act(() => correct("defective")), u: act(undo),
  b: () => part && brush($("brushing").hidden), "?": () => $("keys").showModal(),
  "+": () => opacity(0.1), "-": () => opacity(-0.1)};
document.addEventListener("keydown", (event) => {
  const {key, target} = event, letter = key.length === 1;
  if (event.ctrlKey || event.metaKey || event.altKey || !Object.hasOwn(KEYS, key)) return;
  if ($("keys").open || target.type === "number") return;
  if (letter ? !$("use-keys").checked : target.type === "range") return;
  event.preventDefault();
  KEYS[key]();
});
const on = (id, work, kind = "click") => $(id).addEventListener(kind, work);
const BUTTONS = {good: "g", defective: "d", brush: "b", undo: "u", help: "?"};
for (const [id, key] of Object.entries(BUTTONS)) on(id, KEYS[key]);
on("follow", () => show(following ? part : parts[0], !following));
on("fill", () => { strokes.push({points: [], region: marked}); paint(); });
on("opacity", () => opacity(), "input");
for (const id of ["slider", "number"]) on(id, () => attempt($(id).value), "input");
on("keep", act(keep));
on("back", () => attempt(""));
on("stage", stroke, "pointerdown");
on("stage", trace, "pointermove");
window.addEventListener("hashchange", draw);
document.addEventListener("visibilitychange", act(() => document.hidden || load()));
opacity();
listen();
