// The page's way to the server: the front end of the notebook, with HTTP in place of the widget's channel.
import { createChat } from "/static/chat.js";

const words = await (await fetch("/static/words.json")).json();
let underWay = null; // the message whose answer is being read, whether that has begun, and the way to end it
let unsent = null; // a message that never reached the server: shown with what became of it, and kept on this side only
let later = 0;
const KEPT = "csproto-conversation"; // to take the conversation up again after the server was restarted
const nothing = (ok) => ({ messages: [], info: { customer: "", conversation: "", customers: [], busy: false, engine: { ok, model: "" } } });
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
  else if (command.type === "stop") await stop();
  else if (command.type === "rate") show(await call("/api/session/rate", { id: command.id, rating: command.rating }));
  else if (command.type === "new") await begin(command.customer ?? null);
  else if (command.type === "check") await refresh();
  else if (command.type === "export") await download(command.form, command.language);
}

function post(path, body, signal = null) {
  const headers = { "Content-Type": "application/json" };
  return fetch(path, { method: "POST", headers, body: JSON.stringify(body), signal });
}

async function call(path, body) {
  const response = await post(path, body);
  if (response.ok) return response.json();
  if (response.status === 401 || response.status === 404) await refresh(); // what is shown may be another customer's
  fail((await response.json()).error);
  return null;
}

async function refresh() {
  if (underWay) return;
  const response = await fetch("/api/session").catch(() => null);
  if (response?.status === 401) {
    unsent = null;
    show(nothing(true));
    return fail((await response.json()).error);
  }
  const state = response?.ok ? await response.json().then(resumed).catch(() => null) : null;
  if (!underWay) show(state || { ...shown, info: { ...shown.info, busy: false, engine: { ...shown.info.engine, ok: false } } });
}

async function resumed(state) {
  const kept = localStorage.getItem(KEPT);
  if (state.info.conversation || !kept) return state;
  const response = await post("/api/session", JSON.parse(kept));
  if (response.ok) return response.json();
  if (response.status === 404) localStorage.removeItem(KEPT);
  return state;
}

async function begin(customer) {
  localStorage.removeItem(KEPT);
  const state = await call("/api/session", { customer });
  if (state) unsent = null;
  show(state);
}

function show(state) {
  if (!state) return;
  shown = state;
  if (state.info.conversation) localStorage.setItem(KEPT, JSON.stringify(state.info, ["customer", "conversation"]));
  chat.receive({ type: "snapshot", message: null });
  chat.receive({ type: "messages", messages: unsent ? [...state.messages, unsent] : state.messages });
  chat.receive({ type: "info", info: state.info });
  chat.receive({ type: "settled" });
  clearTimeout(later);
  if (state.info.busy && !underWay) later = setTimeout(refresh, 1000); // answered in another tab, or being stopped after a reload
}

function fail(code) {
  chat.receive({ type: "problem", code });
}

async function ask(text) {
  const message = {
    id: `unsent${performance.now()}`, at: new Date().toISOString(), text, state: "running",
    triage: null, sure: null, runner_up: null, decisions: [], waiting: null, choices: [], reply: "", usage: null, error: null, rating: 0,
  };
  const mine = { message, begun: false, controller: new AbortController() };
  const fails = (code) => { unsent = { ...message, state: "failed", error: { code, reason: "" } }; };
  underWay = mine;
  unsent = null;
  step({ step: "start", message });
  try {
    const response = await post("/api/chat/stream", { input: text }, mine.controller.signal);
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
  const { sure, runner_up, ...triage } = data; // of the event `triage`
  if (event === "triage") return { step: "triage", triage, sure, runner_up };
  if (event === "decision") return { step: "decision", decision: data };
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
  const state = await post("/api/session/stop", {}).then((response) => (response.ok ? response.json() : null)).catch(() => null);
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
