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
let strokes = [], marked = null; // of the brush; a canvas with the model's region
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
function shape(name, attributes) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}
function write(id, text, style = $(id).className) { // only changes, for what is read out
  if ($(id).textContent !== plain(text)) $(id).textContent = plain(text);
  $(id).className = style;
}
const tell = (text, style = "") => write("told", text, style);
const act = (work) => async (...given) => {
  try { await work(...given); } catch (error) {
    tell(error instanceof TypeError ? "The station does not answer." : error.message, "wrong");
  }
};
async function ask(path, method = "GET", values = undefined) {
  const body = values && JSON.stringify(values);
  const headers = body ? {"Content-Type": "application/json"} : {};
  const answer = await fetch(path, {method, headers, body});
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
  const context = $("scale").getContext("2d"), row = context.createImageData(256, 1);
  model.colours.forEach((colour, i) => row.data.set([...colour, 255], 4 * i));
  context.putImageData(row, 0, 0);
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
  const told = (kind, work) => events.addEventListener(kind, act(work));
  told("open", async () => { await load(); write("live", "live", "on"); });
  told("part", ({data}) => { fresh.push(JSON.parse(data)); add(fresh.at(-1)); draw(); });
  told("state", async ({data}) => {
    state = JSON.parse(data);
    if (state.corrections !== corrections.length) ({corrections} = await ask("corrections"));
    draw();
  });
  told("error", async () => {
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
  const {kind, step, size, program, precision} = model;
  const facts = {
    model: `${kind}, step ${step}, ${size} px, ${program}, ${precision}`,
    "its own threshold": number(model.threshold),
    drift: drift ? `${drift.since ? `since ${clock(drift.since)}` : "none"}, in the last ${
      Math.min(drift.parts, drift.window)} parts judged good` : "not watched: no reference",
    "watched folder": watching ?? "none"};
  $("about").replaceChildren(...Object.entries(facts).flatMap(([key, text]) =>
    [make("dt", key), make("dd", text)]));
}
function drawList() {
  const old = new Map([...$("list").children].map((item) => [item.dataset.id, item]));
  const items = parts.map((one) => {
    const item = old.get(one.id) ?? thumbnail(one), button = item.firstChild, now = called(one);
    const word = corrected(one), note = word ? `corrected: ${word.verdict}`
      : one.verdict && one.verdict !== now ? `was ${one.verdict}` : "";
    const label = make("span", [now, make("small", one.error ? "" : number(one.score)),
      make("small", note)], `is-${now}`);
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
  const button = make("button", inner, "", {type: "button", title, onclick: () => show(one)});
  const item = make("li", button);
  item.dataset.id = one.id;
  return item;
}
function drawPart() {
  $("good").disabled = $("defective").disabled = !part || !!part.error;
  if (!part) return;
  const cut = threshold(), word = corrected(part), {score, slope = model.slope} = part;
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
    const alt = plain(`${kind} of ${one.name}`);
    const image = make("img", [], "", {src: one[kind] ?? "data:,", alt, hidden: !one[kind]});
    await (one[kind] && image.decode().catch(() => { throw Error("No longer kept."); }));
    return image;
  };
  try {
    const [image, map, repaint] = await Promise.all(["picture", "map", "reconstruction"].map(loaded));
    if (drawn !== one.id) return; // another one is shown by now
    $("picture").replaceWith(Object.assign(image, {id: "picture"}));
    $("reconstruction").replaceWith(Object.assign(repaint, {id: "reconstruction"}));
    for (const id of ["overlay", "boxes", "heat"]) $(id).toggleAttribute("hidden", !one.map);
    $("stage").style.setProperty("--ratio", (one.width || 1) / (one.height || 1));
    $("boxes").setAttribute("viewBox", `0 0 ${one.width || 1} ${one.height || 1}`);
    $("boxes").replaceChildren(...(one.boxes ?? []).map(({x, y, width, height}) =>
      shape("rect", {x, y, width, height})));
    if (one.map) drawMap(image, map);
    tell("");
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
function drawMap(image, map) { // the overlay of reporting/drawing.py, and the map alone
  const {naturalWidth: width, naturalHeight: height} = image;
  const shrink = Math.min(1, Math.sqrt(MOST_PIXELS / (width * height)));
  const sides = [width, height].map((side) => Math.max(1, Math.round(side * shrink)));
  const [over, heat, inside] = [$("overlay"), $("heat"), make("canvas")].map((one) =>
    canvas(one, ...sides));
  const [laid, values, region] = [[over, image], [heat, map], [inside, map]].map(([one, source]) => {
    one.drawImage(source, 0, 0, ...sides);
    return one.getImageData(0, 0, ...sides);
  });
  const [a, b, c] = [laid.data, values.data, region.data];
  for (let i = 0; i < a.length; i += 4) {
    const value = b[i], opacity = 0.85 * Math.min(1.5 * value / 255, 1);
    const grey = 0.299 * a[i] + 0.587 * a[i + 1] + 0.114 * a[i + 2];
    for (let k = 0; k < 3; k++) {
      b[i + k] = model.colours[value][k];
      a[i + k] = grey + opacity * (b[i + k] - grey);
    }
    c[i + 3] = value > 127 ? 255 : 0; // the threshold of pixels is the middle of the scale
  }
  [[over, laid], [heat, values], [inside, region]].forEach(([one, data]) =>
    one.putImageData(data, 0, 0));
  marked = model.pixel_threshold ? inside.canvas : null;
}
function drawThreshold() {
  const cut = threshold(), now = state.threshold;
  const {good = [], defective = []} = model.evaluation ?? {}, all = [...good, ...defective];
  const scores = parts.filter((one) => !one.error).map((one) => one.score);
  const top = Math.min(1, 1.05 * Math.max(...all, ...scores, now ?? 0, 1e-6)), bars = 48;
  const at = (score) => 400 * Math.min(score / top, 1);
  $("slider").max = top;
  for (const id of ["slider", "number"])
    if (cut !== null && $(id) !== document.activeElement) $(id).value = cut;
  write("highest", number(top));
  const shapes = [[good, "c1", 104], [defective, "c2", 54]].flatMap(([list, style, foot]) => {
    const heights = Array(bars).fill(0), wide = 400 / bars;
    list.forEach((score) => heights[Math.min(bars - 1, Math.floor(at(score) / wide))]++);
    const scale = 46 / Math.max(...heights, 1);
    return [...heights.map((n, i) => shape("rect", {class: style, x: i * wide, width: wide - 1,
      y: foot - n * scale, height: n * scale})), shape("line", {x1: 0, x2: 400, y1: foot, y2: foot})];
  });
  const line = (score, y1, y2, style = "") =>
    shape("line", {class: style, x1: at(score), x2: at(score), y1, y2});
  shapes.push(...scores.map((score) => line(score, 110, 122)));
  if (cut !== null) shapes.push(line(cut, 0, 124, "threshold"));
  $("histogram").replaceChildren(...shapes);
  const wrong = {
    "false alarms": [good, (t) => good.filter((score) => score >= t).length],
    "missed defects": [defective, (t) => defective.filter((score) => score < t).length]};
  const told = Object.entries(wrong).map(([name, [list, of]]) => `${name} ${
    now === null || tried === null ? "" : `${of(now)} → `}${of(cut)} of ${list.length}`).join(", ");
  const changed = (list) => list.filter((s) => verdict(s, cut) !== verdict(s, now)).length;
  write("would", tried === null || now === null ? "" : `${changed(scores)} of the ${scores.length
    } parts shown and ${changed(all)} of the evaluation's pictures would be judged otherwise.`);
  write("mistakes", !all.length ? "The model came without the scores of its evaluation."
    : cut === null ? "" : `On the evaluation's own ${all.length} pictures: ${told}.`);
  $("keep").disabled = $("back").disabled = tried === null;
  write("back", `Back to ${number(now)}`);
}
function drawWords() {
  const here = location.hash === "#corrections";
  [$("parts").hidden, $("corrections").hidden] = [here, !here];
  [$("to-parts").ariaCurrent, $("to-corrections").ariaCurrent] = [!here, here].map(String);
  $("none").hidden = corrections.length > 0;
  const ids = corrections.map((word) => word.id).join();
  if (!here || $("words").dataset.ids === ids) return;
  $("words").dataset.ids = ids;
  $("words").replaceChildren(...corrections.map((word) => {
    const place = `corrections/${word.id}`, region = make("div", [], "region");
    if (word.mask) region.style.maskImage = `url("${place}/mask")`;
    const alt = plain(word.name), look = {loading: "lazy", src: `${place}/picture`, alt};
    const remark = !word.said ? "" : word.said === word.verdict ? "confirmed"
      : word.verdict === "good" ? "false alarm: called defective" : "missed: called good";
    const away = make("button", "Withdraw", "", {type: "button", onclick: act(async () => {
      if (confirm(`Withdraw the correction of ${plain(word.name)}?`)) await withdraw(word.id);
    })});
    return make("li", [
      make("figure", [make("img", [], "", look), ...(word.mask ? [region] : [])]),
      make("strong", word.verdict, `is-${word.verdict}`), make("p", remark), make("p", word.name),
      make("p", `score ${number(word.score)}, ${clock(word.time)}`, "faint"), away]);
  }));
}

// ---- what a person does
function show(one, follow = false) {
  if (one) part = one;
  following = follow;
  draw();
  $("list").querySelector("[aria-current=true]")?.scrollIntoView({block: "nearest"});
}
const step = (by) => show(parts[Math.max(0, parts.findIndex((one) => one.id === part?.id) + by)]);
function paint(on = $("mask"), shrink = Math.min(1, 1024 / Math.max(part.width, part.height))) {
  const pen = canvas(on, Math.round(part.width * shrink), Math.round(part.height * shrink));
  [pen.lineCap, pen.lineJoin, pen.strokeStyle] = ["round", "round", "#2fe6e6"];
  pen.scale(shrink, shrink);
  for (const {points, width, erases, region} of strokes) {
    if (region) pen.drawImage(region, 0, 0, part.width, part.height);
    pen.globalCompositeOperation = erases ? "destination-out" : "source-over";
    pen.lineWidth = width;
    pen.beginPath();
    points.forEach(([x, y]) => pen.lineTo(x, y));
    pen.stroke();
  }
  return pen;
}
function mask() { // white where painted, at the picture's own size; null: nowhere
  const pen = paint(make("canvas"), 1), pixels = pen.getImageData(0, 0, part.width, part.height);
  let any = false;
  for (let i = 0; i < pixels.data.length; i += 4) {
    const inside = pixels.data[i + 3] > 127;
    pixels.data.set(inside ? [255, 255, 255, 255] : [0, 0, 0, 255], i);
    any ||= inside;
  }
  pen.putImageData(pixels, 0, 0);
  return any ? pen.canvas.toDataURL("image/png") : null;
}
async function correct(said) {
  if (!part || part.error) return;
  const region = said === "defective" && strokes.length ? mask() : null;
  const one = await ask("corrections", "POST", {part: part.id, verdict: said, mask: region});
  mine.push(one.id);
  ({corrections} = await ask("corrections"));
  tell(`Stored: ${one.name} is ${said}${region ? ", with its region" : ""}.`);
  draw();
}
async function withdraw(id) {
  await ask(`corrections/${id}`, "DELETE");
  ({corrections} = await ask("corrections"));
  tell("The correction is withdrawn.");
  draw();
}
async function undo() {
  if (strokes.length) { strokes.pop(); paint(); } else if (mine.length) await withdraw(mine.pop());
}
function brush() {
  const on = $("stage").classList.toggle("brushing");
  $("brush").ariaPressed = String(on);
  $("brushing").hidden = !on;
  following &&= !on;
  draw();
}
function opacity(by = 0) {
  $("opacity").value = Number($("opacity").value) + by;
  $("overlay").style.opacity = $("boxes").style.opacity = $("opacity").value;
}
function attempt(value) {
  tried = value === "" || Number(value) === state.threshold ? null : Number(value);
  draw();
}
async function keep() {
  state = await ask("threshold", "POST", {threshold: tried});
  tried = null;
  draw();
}
$("stage").addEventListener("pointerdown", (event) => {
  if (event.button || !part?.map || !$("stage").classList.contains("brushing")) return;
  event.preventDefault();
  $("stage").setPointerCapture(event.pointerId);
  const width = $("width").value / 100 * Math.min(part.width, part.height);
  strokes.push({points: [], width, erases: event.shiftKey || $("eraser").checked});
  trace(event);
});
function trace(event) {
  if (!$("stage").hasPointerCapture(event.pointerId)) return;
  const {left, top, width, height} = $("mask").getBoundingClientRect();
  strokes.at(-1).points.push([(event.clientX - left) / width * part.width,
    (event.clientY - top) / height * part.height]);
  paint();
}
$("stage").addEventListener("pointermove", trace);
const KEYS = {
  ArrowLeft: () => step(-1), ArrowRight: () => step(1), Home: () => show(parts[0], true),
  g: act(() => correct("good")), d: act(() => correct("defective")), b: brush, u: act(undo),
  "+": () => opacity(0.1), "-": () => opacity(-0.1), "?": () => $("keys").showModal()};
document.addEventListener("keydown", (event) => {
  const letter = event.key.length === 1;
  if (event.ctrlKey || event.metaKey || event.altKey || !Object.hasOwn(KEYS, event.key)) return;
  if ($("keys").open || (letter ? !$("use-keys").checked : event.target.matches("input"))) return;
  if (event.target.type === "number") return;
  event.preventDefault();
  KEYS[event.key]();
});
const BUTTONS = {good: "g", defective: "d", brush: "b", undo: "u", help: "?"};
for (const [id, key] of Object.entries(BUTTONS)) $(id).addEventListener("click", KEYS[key]);
$("follow").addEventListener("click", () => show(following ? part : parts[0], !following));
$("fill").addEventListener("click", () => {
  if (marked) { strokes.push({points: [], width: 1, region: marked}); paint(); }
});
$("opacity").addEventListener("input", () => opacity());
for (const id of ["slider", "number"])
  $(id).addEventListener("input", () => attempt($(id).value));
$("keep").addEventListener("click", act(keep));
$("back").addEventListener("click", () => attempt(""));
window.addEventListener("hashchange", draw);
document.addEventListener("visibilitychange", act(() => document.hidden || load()));
opacity();
listen();
