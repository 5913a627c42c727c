// The page's way to the server: the front end of the notebook, with HTTP in place of the widget's channel.
import { createChat } from "/static/chat.js";

const words = await (await fetch("/static/words.json")).json();
let underWay = null; // the message whose answer is being read, whether that has begun, and the way to end it
let unsent = null; // a message that never reached the server: shown with what became of it, and kept on this side only
let unsentCount = 0;
let repeating = false; // between taking a message back and sending it again
let later = 0;
const nothing = (ok) => ({ messages: [], info: { customer: "", customers: [], busy: false, engine: { ok, model: "" } } });
let shown = nothing(false); // the server's last word

const host = {
  kind: "page",
  words,
  language: localStorage.getItem("csproto-language") || "",
  setLanguage: (language) => localStorage.setItem("csproto-language", language),
  speaks(language) {
    document.documentElement.lang = language === "zh" ? "zh-CN" : "en";
    document.title = words[language].title;
  },
  send: (command) => carryOut(command).catch(() => fail("network")),
};
const chat = createChat(document.getElementById("chat"), host);
await refresh();

async function carryOut(command) {
  if (command.type === "send") await ask(command.text);
  else if (command.type === "retry") await askAgain(true);
  else if (command.type === "edit") await askAgain(false, command.text);
  else if (command.type === "undo") await takeBack(false);
  else if (command.type === "stop") await stop();
  else if (command.type === "rate") show(await call("/api/session/rate", { id: command.id, rating: command.rating }));
  else if (command.type === "new") show(await call("/api/session", { customer: command.customer ?? null }));
  else if (command.type === "check") await refresh();
  else if (command.type === "export") await download(command.form, command.language);
}

async function call(path, body) {
  const response = await fetch(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });
  if (response.ok) return response.json();
  if (response.status === 401 || response.status === 404) await refresh(); // somebody else is signed in, or nobody: what is shown is not theirs
  fail((await response.json()).error);
  return null;
}

async function refresh() {
  if (underWay) return;
  const response = await fetch("/api/session").catch(() => null);
  if (response?.status === 401) {
    unsent = null;
    show(nothing(true));
    fail((await response.json()).error);
    return;
  }
  const state = response?.ok ? await response.json().catch(() => null) : null;
  if (!underWay) show(state || { ...shown, info: { ...shown.info, busy: false, engine: { ...shown.info.engine, ok: false } } });
}

function show(state) {
  if (!state) return;
  shown = state;
  chat.receive({ type: "snapshot", message: null });
  chat.receive({ type: "messages", messages: unsent ? [...state.messages, unsent] : state.messages });
  chat.receive({ type: "info", info: { ...state.info, busy: state.info.busy || repeating } });
  chat.receive({ type: "settled" });
  clearTimeout(later);
  if (state.info.busy && !underWay) later = setTimeout(refresh, 1000); // answered in another tab, or being stopped after a reload
}

function fail(code) {
  chat.receive({ type: "problem", code });
}

async function takeBack(again) {
  if (unsent) {
    const { text } = unsent;
    unsent = null;
    await refresh();
    return text;
  }
  const state = await call("/api/session/undo", { again });
  show(state);
  return state?.text;
}

async function askAgain(again, text = null) {
  repeating = true;
  const before = await takeBack(again).finally(() => { repeating = false; });
  if (before !== undefined) await ask(text ?? before);
}

async function ask(text) {
  const message = { kind: "turn", id: `unsent${(unsentCount += 1)}`, at: new Date().toISOString(), text, state: "running", triage: null, parts: [], reply: "", usage: null, error: null, rating: 0 };
  const mine = { message, begun: false, controller: new AbortController() };
  const fails = (code) => { unsent = { ...message, state: "failed", error: { code, reason: "" } }; };
  underWay = mine;
  unsent = null;
  step({ step: "start", message });
  try {
    const response = await fetch("/api/chat/stream", {
      method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ input: text }), signal: mine.controller.signal,
    });
    mine.begun = response.ok;
    if (response.ok) await read(response, message);
    else fails((await response.json()).error);
  } catch {
    if (!mine.controller.signal.aborted) fails("network");
  } finally {
    if (underWay === mine) {
      underWay = null;
      await refresh();
    }
  }
}

async function read(response, message) {
  message.id = response.headers.get("X-Message-Id") || message.id;
  step({ step: "start", message }); // under the server's name for it
  for await (const event of events(response.body)) step(stepOf(event));
}

function step(step) {
  chat.receive({ type: "step", step });
}

function stepOf({ event, data }) {
  if (event === "decision") return { step: "decision", part: data };
  if (event === "triage") return { step: "triage", triage: data };
  if (event === "token") return { step: "token", text: data.text };
  if (event === "done") return { step: "done", turn: data };
  return data.error === "stopped" ? { step: "stopped" } : { step: "failed", code: data.error, reason: "" };
}

async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (let { value, done } = await reader.read(); !done; { value, done } = await reader.read()) {
    const blocks = (rest + value).split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) {
      const [, event, data] = block.match(/^event: (\w+)\ndata: (.*)$/s);
      yield { event, data: JSON.parse(data) };
    }
  }
}

async function stop() {
  const mine = underWay;
  mine?.controller.abort();
  underWay = null;
  const request = { method: "POST", headers: { "Content-Type": "application/json" }, body: "{}" };
  const state = await fetch("/api/session/stop", request).then((response) => (response.ok ? response.json() : null)).catch(() => null);
  if (mine && !mine.begun && (state || shown).messages.at(-1)?.text !== mine.message.text) unsent = { ...mine.message, state: "stopped" };
  if (state) show(state);
  else await refresh(); // stopped before the server knew of us: there is nothing to stop
}

async function download(form, language) {
  const response = await fetch(`/api/session/export?form=${form}&language=${language}`);
  if (response.status === 401 || response.status === 404) await refresh();
  if (!response.ok) return fail((await response.json()).error);
  const name = form === "json" ? "chat.json" : "chat.md";
  return chat.receive({ type: "file", name, mime: response.headers.get("Content-Type"), text: await response.text() });
}
