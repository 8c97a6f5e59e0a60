// The station's page. What the station says becomes text only, never markup.
"use strict";
const LIMIT = 60; // parts that are shown
const MOST_PIXELS = 4e6; // of a map on the screen; larger pictures are shrunk for it
const OUTLINE = "#2fe6e6"; // as in reporting/drawing.py
const BLANK = "data:image/gif;base64,R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7";
const $ = (id) => document.getElementById(id);
let model, state, telling, corrections = [];
let parts = [], fresh = []; // newest first; those that came while the list was asked for
let part = null, following = true; // the one that is shown; whether the newest takes its place
let drawn = "", loading = false, shown = 0; // id whose picture is drawn or on its way; since when
let tried = null; // a threshold that is looked at; null: that of the station
let strokes = [], marked = null; // of the brush; a canvas with the region that the model marks
const mine = []; // ids of the corrections made here: the last is undone first

// Text as the report shows it: what cannot be printed is an escape.
const plain = (text) => String(text).replace(/[\p{C}\p{Z}]/gu, (c) => (
  c === " " ? c : `\\u${c.codePointAt(0).toString(16).padStart(4, "0")}`));
const number = (value, digits = 4) => (
  value === null ? "–" : String(Number(value.toPrecision(digits))));
const clock = (time) => new Date(time * 1000).toLocaleString("en-GB", {
  timeStyle: "medium", ...(Date.now() / 1000 - time > 43200 && {dateStyle: "short"})});
const threshold = () => tried ?? state.threshold;
const verdict = (score, cut) => (score >= cut ? "defective" : "good");
const called = (one) => (one.error ? "unreadable"
  : threshold() === null ? "no verdict" : verdict(one.score, threshold()));
const note = (one) => { // what a person said of a part, or what it was called before
  const word = corrections.find((other) => other.part === one.id);
  return word ? `corrected: ${word.verdict}`
    : one.verdict && one.verdict !== called(one) ? `was ${one.verdict}` : ""; };
function make(name, content = [], style = "", more = {}) {
  const made = Object.assign(document.createElement(name), {className: style, ...more});
  made.append(...[content].flat().map((c) => (c instanceof Node ? c : plain(c))));
  return made;
}
function write(id, text, style = $(id).className) { // only changes, for what is read out
  if ($(id).textContent !== plain(text)) $(id).textContent = plain(text);
  $(id).className = style;
}
const tell = (words, style = "") => { // for a while
  clearTimeout(telling);
  telling = setTimeout(write, 8000, "told", "");
  write("told", words, style); };
const act = (work) => async (...given) => {
  try { await work(...given); } catch (error) {
    if (error.constructor !== Error) throw error; // a mistake of this page
    tell(error.message, "wrong");
  }
};
const TOKEN = "This needs the station's token: open the link that its log shows.";
async function ask(path, method = "GET", values = undefined) {
  const body = values && JSON.stringify(values), headers = {"Content-Type": "application/json"};
  const answer = await fetch(path, {method, body, headers}).catch(() => {
    throw Error("The station does not answer."); });
  const said = await answer.json().catch(() => ({error: `The station said ${answer.status}.`}));
  if (!answer.ok) throw Error(answer.status === 401 ? TOKEN : said.error);
  return said;
}
// What comes from the station
async function load() {
  fresh = [];
  const paths = ["model", "state", `parts?limit=${LIMIT}`, "corrections"];
  [model, state, {parts}, {corrections}] = await Promise.all(paths.map((path) => ask(path)));
  fresh.forEach(add);
  const pen = $("scale").getContext("2d"), row = pen.createImageData(256, 1);
  model.colours.forEach((colour, i) => row.data.set([...colour, 255], 4 * i));
  pen.putImageData(row, 0, 0);
  write("middle", `threshold of pixels ${number(model.pixel_threshold, 3)}`);
  write("most", number(model.scale, 3));
  draw();
}
const add = (one) => {
  parts = [one, ...parts.filter((other) => other.id !== one.id)].slice(0, LIMIT); };
function listen() {
  const events = new EventSource("events");
  const hear = (kind, work) => events.addEventListener(kind, act(work), {once: kind === "error"});
  hear("open", async () => {
    await load().catch(() => events.dispatchEvent(new Event("error")));
    if (events.readyState === EventSource.OPEN) write("live", "live", "on");
  });
  hear("part", ({data}) => { fresh.push(JSON.parse(data)); add(fresh.at(-1)); draw(); });
  hear("state", async ({data}) => {
    state = JSON.parse(data);
    if (state.corrections !== corrections.length) ({corrections} = await ask("corrections"));
    draw();
  });
  hear("error", async () => {
    write("live", "not connected, trying again", "");
    events.close();
    setTimeout(listen, 3000);
    await ask("state"); // says why
  });
}
// Drawing, at most once a frame
let frame = 0;
const draw = () => { cancelAnimationFrame(frame); frame = requestAnimationFrame(drawAll); };
function drawAll() {
  if (!model) return;
  if (parts.length && !loading && (following || !part)) part = parts[0];
  for (const one of [drawHead, drawList, drawPart, drawThreshold, drawWords]) one();
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
    + `${drift.drifted.join(", ")} no longer fits the good pictures of the evaluation.`);
  if ($("notices").textContent !== notices.map(plain).join(""))
    $("notices").replaceChildren(...notices.map((text) => make("p", text)));
  const drifts = !drift ? "not watched" : drift.since ? "yes" : `none in ${drift.parts} parts`;
  write("about", `Model: ${model.kind}, step ${model.step}, ${model.size} px, threshold ${
    number(model.threshold)}. Drift: ${drifts}. Watched folder: ${watching ?? "none"}.`);
}
function thumbnail(one) {
  const look = {loading: "lazy", decoding: "async", alt: "", src: one.picture ?? BLANK};
  const about = {title: `${plain(one.name)}, ${clock(one.time)}`, onclick: () => show(one)};
  const item = make("li", make("button", [make("img", [], "", look), make("span")], "", about));
  item.dataset.id = one.id;
  return item;
}
function drawList() {
  const old = new Map([...$("list").children].map((item) => [item.dataset.id, item]));
  const items = parts.map((one) => {
    const item = old.get(one.id) ?? thumbnail(one), button = item.firstChild, now = called(one);
    const small = [number(one.score), note(one)].map((line) => make("small", line));
    const label = make("span", [now, ...small], `is-${now}`);
    if (!button.lastChild.isEqualNode(label)) button.lastChild.replaceWith(label);
    [button.tabIndex, button.ariaCurrent] = one.id === part?.id ? [0, "true"] : [-1, "false"];
    return item;
  });
  if (items.length !== old.size || items.some((item, i) => item !== $("list").children[i]))
    $("list").replaceChildren(...items);
  $("follow").ariaPressed = String(following);
}
function drawPart() {
  for (const id of ["good", "defective", "brush"]) $(id).disabled = !part?.map;
  if (part && drawn !== part.id) act(drawPicture)(part);
  if (!part || loading) return; // the words come with the picture
  write("verdict", called(part), `is-${called(part)}`);
  $("frames").hidden = $("overlay").hidden || called(part) === "good"; // as in the overlays
  write("name", part.name);
  const facts = [`score ${number(part.score)}`, `threshold ${number(threshold())}`,
    tried === null && part.confidence !== null && `confidence ${part.confidence.toFixed(2)}`,
    clock(part.time), note(part)];
  write("facts", part.error ?? facts.filter(Boolean).join(" · "));
}
async function drawPicture(one) {
  [drawn, loading, strokes, marked] = [one.id, true, [], null];
  const loaded = async (kind) => {
    const about = {id: kind, src: one[kind] ?? BLANK, alt: plain(`${kind} of ${one.name}`)};
    const image = make("img", [], "", {...about, hidden: !one[kind]});
    if (one[kind]) await image.decode().catch(() => { image.hidden = true; });
    return image;
  };
  try {
    const kinds = ["picture", "reconstruction", "map"];
    const [image, repaint, map] = await Promise.all(kinds.map(loaded));
    if (drawn !== one.id) return; // another one is shown by now
    $("picture").replaceWith(image);
    $("reconstruction").replaceWith(repaint);
    $("overlay").hidden = $("mask").hidden = image.hidden || map.hidden;
    if (!$("mask").hidden) drawMap(image, map, one.boxes);
    else if (!one.error) tell("The pictures of this part are no longer kept.", "wrong");
  } finally {
    if (drawn === one.id) [loading, shown] = [false, Date.now()];
    draw();
  }
}
const canvas = (made, width, height) =>
  Object.assign(made, {width, height}).getContext("2d", {willReadFrequently: true});
function drawMap(image, map, boxes) { // the overlay and the frames of predicting/writing.py
  const {naturalWidth: width, naturalHeight: height} = image;
  $("stage").style.setProperty("--ratio", width / height);
  const shrink = Math.min(1, Math.sqrt(MOST_PIXELS / (width * height)));
  const pens = [$("overlay"), make("canvas"), $("frames")].map((one) =>
    canvas(one, Math.ceil(width * shrink), Math.ceil(height * shrink)));
  for (const pen of pens) pen.scale(shrink, shrink);
  const layers = [image, map].map((one, i) => {
    pens[i].drawImage(one, 0, 0, width, height);
    return pens[i].getImageData(0, 0, pens[i].canvas.width, pens[i].canvas.height); });
  const [laid, region] = layers.map((layer) => layer.data), {colours} = model;
  for (let i = 0; i < laid.length; i += 4) {
    const value = region[i], opacity = 0.85 * Math.min(1.5 * value / 255, 1);
    const grey = 0.299 * laid[i] + 0.587 * laid[i + 1] + 0.114 * laid[i + 2];
    for (let k = 0; k < 3; k++) laid[i + k] = grey + opacity * (colours[value][k] - grey);
    region.set(value > 127 ? [47, 230, 230, 255] : [0, 0, 0, 0], i); // at the middle: the threshold
  }
  layers.forEach((layer, i) => pens[i].putImageData(layer, 0, 0));
  marked = model.pixel_threshold ? pens[1].canvas : null;
  const frames = pens[2], line = frames.lineWidth = Math.max(1, Math.min(width, height) / 250);
  frames.strokeStyle = OUTLINE;
  for (const one of boxes)
    frames.strokeRect(one.x - line / 2, one.y - line / 2, one.width + line, one.height + line);
  paint();
}
function drawThreshold() {
  const cut = threshold(), now = state.threshold, trying = tried !== null && now !== null;
  const {good = [], defective = []} = model.evaluation ?? {}, all = [...good, ...defective];
  const last = parts.filter((one) => !one.error).map((one) => one.score);
  const top = Math.min(1, 1.05 * Math.max(...all, ...last, now ?? 0, 1e-6));
  $("slider").max = top;
  for (const id of ["slider", "number"])
    if (cut !== null && Number($(id).value) !== cut) $(id).value = cut;
  write("highest", number(top));
  const rows = {defective, good, last, cut: cut === null ? [] : [cut]};
  for (const [id, list] of Object.entries(rows))
    $(`row-${id}`).setAttribute("d", list.map((score) => `M${400 * score / top} 0v40`).join(""));
  const other = (list) => list.filter((s) => verdict(s, cut) !== verdict(s, now)).length;
  write("would", trying ? `${other(last)} of the ${last.length} parts shown and ${other(all)
    } of the evaluation's pictures would be judged otherwise.` : "");
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
    if (word.mask) region.style.maskImage = `url("${place}/mask")`; else region.hidden = true;
    const image = make("img", [], "", {loading: "lazy", src: `${place}/picture`, alt: word.name});
    const remark = word.said === null ? "" : word.said === word.verdict ? "confirmed"
      : word.verdict === "good" ? "false alarm: called defective" : "missed: called good";
    const away = make("button", "Withdraw", "", {type: "button"});
    away.onclick = act(() => confirm("Withdraw it?") && withdraw(word.id));
    return make("li", [make("figure", [image, region]),
      make("strong", word.verdict, `is-${word.verdict}`), make("p", remark), make("p", word.name),
      make("p", `score ${number(word.score)}, ${clock(word.time)}`, "faint"), away]);
  }));
}
// What a person does
const show = (one, follow = false) => { [part, following] = [one ?? part, follow]; draw(); };
const step = (by) => show(parts[Math.max(0, parts.findIndex((one) => one.id === part?.id) + by)]);
function paint(on = $("mask"), shrink = Math.min(1, 1024 / part.width)) {
  const pen = canvas(on, part.width * shrink, part.height * shrink);
  pen.scale(shrink, shrink);
  [pen.lineCap, pen.lineJoin, pen.strokeStyle] = ["round", "round", OUTLINE];
  for (const {points, width, erases, region} of strokes) {
    pen.globalCompositeOperation = erases ? "destination-out" : "source-over";
    if (region) pen.drawImage(region, 0, 0, part.width, part.height);
    pen.lineWidth = width;
    pen.beginPath();
    for (const [x, y] of points) pen.lineTo(x, y);
    pen.stroke();
  }
  return on;
}
async function say(...words) { // about corrections; then what they are
  const answer = await ask(...words);
  ({corrections} = await ask("corrections"));
  draw();
  return answer;
}
async function correct(said) {
  if (!part?.map) return;
  if (loading || (following && Date.now() < shown + 500)) throw Error("A new part: press again.");
  const painted = said === "defective" && strokes.length; // at the picture's size, else black
  const mask = painted ? paint(make("canvas"), 1).toDataURL("image/png") : null;
  const one = await say("corrections", "POST", {part: part.id, verdict: said, mask});
  mine.push(one.id);
  tell(`Stored: ${one.name} is ${said}${one.mask ? ", with its region" : ""}.`);
  if (!$("brushing").hidden) brush();
}
const withdraw = async (id) => {
  await say(`corrections/${id}`, "DELETE"); tell("The correction is withdrawn."); };
const undo = () => (strokes.pop() ? paint() : mine.length && withdraw(mine.pop()));
function brush() { // on, off
  if (!part?.map) return;
  const on = $("stage").classList.toggle("brushing");
  $("brush").ariaPressed = String(on);
  $("brushing").hidden = !on;
  if (!on) strokes = [];
  paint();
  show(part, following && !on);
}
const opacity = (by = 0) => {
  $("opacity").value = Number($("opacity").value) + by;
  for (const id of ["overlay", "frames"]) $(id).style.opacity = $("opacity").value; };
const attempt = (value) => {
  tried = value === "" || Number(value) === state.threshold ? null : Number(value);
  draw(); };
function press(event) {
  if (event.button || !part?.map || $("brushing").hidden) return;
  $("stage").setPointerCapture(event.pointerId);
  const width = $("width").value / 100 * Math.min(part.width, part.height);
  strokes.push({points: [], width, erases: event.shiftKey || $("eraser").checked});
  move(event);
}
function move({pointerId, clientX, clientY}) {
  if (!$("stage").hasPointerCapture(pointerId) || !strokes.length) return;
  const {left, top, width, height} = $("mask").getBoundingClientRect();
  const [x, y] = [(clientX - left) / width, (clientY - top) / height];
  strokes.at(-1).points.push([x * part.width, y * part.height]);
  paint();
}
const on = (id, work, kind = "click") => $(id).addEventListener(kind, work);
const KEYS = {
  ArrowLeft: () => step(-1), ArrowRight: () => step(1), Home: () => show(parts[0], true),
  g: act(() => correct("good")), d: act(() => correct("defective")), u: act(undo), b: brush,
  "+": () => opacity(0.1), "-": () => opacity(-0.1), "?": () => $("keys").showModal()};
document.addEventListener("keydown", (event) => {
  const {key, target, ctrlKey, metaKey, altKey} = event, letter = key.length === 1;
  const typing = target.type === "number" || (target.type === "range" && !letter);
  const other = ctrlKey || metaKey || altKey || (letter && !$("use-keys").checked);
  if (typing || other || $("keys").open || $("parts").hidden || !Object.hasOwn(KEYS, key)) return;
  event.preventDefault(); KEYS[key](); });
const BUTTONS = {good: "g", defective: "d", brush: "b", undo: "u", help: "?"};
for (const [id, key] of Object.entries(BUTTONS)) on(id, KEYS[key]);
on("follow", () => show(following ? part : parts[0], !following));
on("fill", () => { strokes.push({points: [], region: marked ?? make("canvas")}); paint(); });
on("opacity", () => opacity(), "input");
for (const id of ["slider", "number"]) on(id, () => attempt($(id).value), "input");
on("back", () => attempt(""));
on("keep", act(async () => {
  state = await ask("threshold", "POST", {threshold: tried}); attempt(""); }));
on("stage", press, "pointerdown");
on("stage", move, "pointermove");
window.addEventListener("hashchange", draw);
document.addEventListener("visibilitychange", act(() => document.hidden || load()));
opacity();
listen();
