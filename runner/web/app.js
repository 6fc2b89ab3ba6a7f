// The page: a form of parts and a question, sent to /v1/ask as any client
// would; the answer comes as server-sent events. All that comes from outside is
// put in with textContent, never as HTML.

const $ = (id) => document.getElementById(id);

/** A part is {field, file, params} or {field: "bind_text", text}, with a weight. */
const parts = [];
const any = { form_field: "media", media_types: [], params: [] }; // the content says what it is
let kinds = [any]; // as in /v1/models, those that take a file
let running = null; // the AbortController of the question under way

function element(name, props = {}, ...children) {
  const e = Object.assign(document.createElement(name), props);
  e.append(...children);
  return e;
}

// Which field a file goes to: of its type, else of its type's first word.
function fieldOf(file) {
  const word = file.type.split("/")[0];
  return (kinds.find((k) => k.media_types.includes(file.type)) ?? kinds.find((k) => k.form_field === word) ?? any).form_field;
}

function addFiles(files) {
  for (const file of files) {
    if (kinds.length > 1) parts.push({ field: fieldOf(file), file, weight: 1, params: {}, url: URL.createObjectURL(file) });
  }
  showParts();
}

// What a file does not say, of the modality that is chosen.
function params(part) {
  const kind = kinds.find((k) => k.form_field === part.field);
  return (kind?.params ?? []).map((p) => {
    const input = p.type === "boolean"
      ? element("select", {}, ...["", "true", "false"].map((v) => element("option", { value: v, textContent: v || "–" })))
      : element("input", { type: "number", min: p.min, max: p.max, step: p.type === "integer" ? 1 : "any", placeholder: p.default });
    input.value = part.params[p.name] ?? "";
    input.addEventListener("input", () => { part.params[p.name] = input.value; });
    return element("label", { title: p.doc }, p.name + " ", input);
  });
}

function preview(part) {
  const word = part.file.type.split("/")[0];
  if (word === "image") return element("img", { src: part.url, alt: part.file.name });
  if (word === "audio") return element("audio", { src: part.url, controls: true });
  if (word === "video") return element("video", { src: part.url, controls: true, muted: true });
  return element("span");
}

function showParts() {
  $("parts").replaceChildren(...parts.map((part, i) => {
    const weight = element("input", { type: "number", min: "0.01", step: "any", value: part.weight, className: "part-weight", title: "weight", hidden: parts.length < 2 });
    weight.addEventListener("input", () => { part.weight = weight.value; });
    const remove = element("button", { type: "button", textContent: "×", title: "remove" });
    remove.addEventListener("click", () => {
      if (part.url) URL.revokeObjectURL(part.url);
      parts.splice(i, 1);
      showParts();
    });
    if (!part.file) {
      const text = element("input", { value: part.text, ariaLabel: "bind_text" });
      text.addEventListener("input", () => { part.text = text.value; });
      text.addEventListener("keydown", enter);
      return element("li", {}, text, element("span", { textContent: "text" }), weight, remove);
    }
    const field = element("select", { title: "modality" }, ...kinds.map(({ form_field: k }) => element("option", { value: k, textContent: k, selected: k === part.field })));
    field.addEventListener("change", () => { part.field = field.value; part.params = {}; showParts(); });
    const name = element("span", { className: "name", textContent: part.file.name });
    return element("li", {}, element("div", {}, preview(part), name, element("div", { className: "params" }, ...params(part))), field, weight, remove);
  }));
}

// The fields of the question, in order: [name, text] or [name, file].
function fields() {
  const out = [["prompt", $("prompt").value]];
  for (const p of parts) {
    if (!p.file && p.text.trim() === "") continue;
    out.push([p.field, p.file ?? p.text], [p.field + "_weight", String(p.weight)]);
    // A parameter that one file of a field has is sent for each of them.
    for (const { name, type, default: d } of kinds.find((k) => p.file && k.form_field === p.field)?.params ?? []) {
      const set = (q) => (q.params?.[name] ?? "") !== "";
      if (!parts.some((q) => q.field === p.field && set(q))) continue;
      out.push([p.field + "_" + name, set(p) ? p.params[name] : type === "boolean" ? String(d !== 0) : String(d)]);
    }
  }
  for (const name of ["temperature", "max_tokens"]) {
    if ($(name).value !== "") out.push([name, $(name).value]);
  }
  for (const choice of $("choices").value.split(",").map((c) => c.trim())) {
    if (choice !== "") out.push(["choices", choice]);
  }
  const cache = {};
  if ($("cache").value !== "") cache.enabled = $("cache").value === "true";
  if ($("k").value !== "") cache.k = Number($("k").value);
  if ($("weight").value !== "") cache.weight = Number($("weight").value);
  if (Object.keys(cache).length > 0) out.push(["cache", JSON.stringify(cache)]);
  return out.concat([["include", "neighbours,timings"], ["stream", "true"]]);
}

function headers() {
  const key = $("key").value;
  return key === "" ? {} : { Authorization: "Bearer " + key };
}

// events yields the data of each server-sent event.
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      if (line.startsWith("data:")) yield line.slice(5).trim();
    }
  }
}

function fail(message) {
  $("error").textContent = message;
  $("error").hidden = false;
}

async function ask() {
  if (running || $("prompt").value.trim() === "") return;
  running = new AbortController();
  $("go").disabled = true;
  $("stop").disabled = false;
  $("error").hidden = $("neighbours").hidden = true;
  $("answer").textContent = $("facts").textContent = "";
  $("answer").classList.add("busy");
  try {
    const form = new FormData();
    for (const [name, value] of fields()) form.append(name, value);
    const resp = await fetch("/v1/ask", { method: "POST", body: form, headers: headers(), signal: running.signal });
    if (!resp.ok) {
      const text = await resp.text();
      let message = text;
      try { message = JSON.parse(text).error.message; } catch { /* no JSON: a proxy's page */ }
      throw new Error(message || resp.statusText);
    }
    let whole = false;
    for await (const data of events(resp.body)) {
      if (data === "[DONE]") { whole = true; break; }
      const chunk = JSON.parse(data);
      if (chunk.error) throw new Error(chunk.error.message);
      $("answer").append(chunk.choices?.[0]?.delta?.content ?? ""); // a string becomes a text node
      if (chunk.bind) showBind(chunk.bind);
    }
    if (!whole) throw new Error("The answer was cut off.");
  } catch (err) {
    if (err.name !== "AbortError") fail(err.message);
  } finally {
    $("answer").classList.remove("busy");
    $("go").disabled = false;
    $("stop").disabled = true;
    running = null;
  }
}

function showBind(bind) {
  const facts = bind.modalities.map((m) => m.type + (bind.modalities.length > 1 ? " × " + m.weight : ""));
  if (bind.cache.degraded) facts.push("cache ✗ " + (bind.cache.reason ?? ""));
  else if (bind.cache.applied) facts.push("cache ✓");
  const t = bind.timings_ms;
  if (t) facts.push(["encode", "retrieve", "prefill", "decode", "total"].filter((k) => t[k] > 0).map((k) => k + " " + Math.round(t[k]) + " ms").join(" · "));
  $("facts").textContent = facts.join(" — ");
  const rows = (bind.neighbours ?? []).map((n) => {
    const id = element("td", { textContent: n.id });
    id.title = n.uri ?? "";
    return element("tr", {}, id, element("td", { textContent: n.caption }), element("td", { textContent: n.score.toFixed(3) }), element("td", { textContent: (100 * n.weight).toFixed(1) + " %" }));
  });
  $("neighbours").tBodies[0].replaceChildren(...rows);
  $("neighbours").hidden = rows.length === 0;
}

const quote = (s) => "'" + s.replaceAll("'", "'\\''") + "'";

// The question as a curl command; files stand with their names only.
function curl() {
  const words = ["curl", "-N", quote(location.origin + "/v1/ask")];
  if ($("key").value !== "") words.push("-H", quote("Authorization: Bearer KEY"));
  for (const [name, value] of fields()) {
    if (value instanceof File) words.push("-F", quote(name + '=@"' + value.name.replaceAll("\\", "\\\\").replaceAll('"', '\\"') + '"'));
    else words.push("--form-string", quote(name + "=" + value));
  }
  return words.join(" ");
}

// Enter sends, also from the small fields; Shift+Enter is a new line. While an
// input method composes (Chinese, say), Enter is its own.
function enter(e) {
  if (e.key !== "Enter" || e.shiftKey || e.isComposing || e.keyCode === 229) return;
  e.preventDefault();
  ask();
}

$("prompt").addEventListener("keydown", enter);
$("ask").addEventListener("submit", (e) => { e.preventDefault(); ask(); });
$("stop").addEventListener("click", () => running?.abort());
document.addEventListener("keydown", (e) => { if (e.key === "Escape") running?.abort(); });
$("pick").addEventListener("click", () => $("files").click());
$("files").addEventListener("change", () => { addFiles($("files").files); $("files").value = ""; });
$("bind").addEventListener("click", () => {
  parts.push({ field: "bind_text", text: "", weight: 1 });
  showParts();
  $("parts").lastElementChild.querySelector("input").focus();
});
$("curl").addEventListener("click", async () => {
  try { await navigator.clipboard.writeText(curl()); } catch { fail(curl()); } // no clipboard without https: show it
});
document.addEventListener("dragover", (e) => { e.preventDefault(); $("drop").classList.add("over"); });
document.addEventListener("dragleave", (e) => { if (!e.relatedTarget) $("drop").classList.remove("over"); });
document.addEventListener("drop", (e) => { e.preventDefault(); $("drop").classList.remove("over"); addFiles(e.dataTransfer.files); });
document.addEventListener("paste", (e) => { if (e.clipboardData.files.length > 0) { e.preventDefault(); addFiles(e.clipboardData.files); } });
$("key").value = sessionStorage.getItem("key") ?? "";
$("key").addEventListener("input", () => { sessionStorage.setItem("key", $("key").value); about(); });

// about asks what is served, and offers its modalities.
async function about() {
  try {
    const resp = await fetch("/v1/models", { headers: headers() });
    if (!resp.ok) return;
    const model = (await resp.json()).data[0];
    $("model").textContent = model.id;
    const files = model.inputs.filter((k) => k.part.endsWith("_url"));
    kinds = [any, ...files];
    $("kinds").textContent = files.map((k) => k.modality.replaceAll("_", " ")).join(" / ");
    $("pick").hidden = files.length === 0;
    $("bind").hidden = !model.modalities.includes("text");
    showParts();
  } catch { /* the question will say what is wrong */ }
}
about();
