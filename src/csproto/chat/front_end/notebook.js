// ---- the notebook's way: numbered messages through the widget's channel

function render({ model, el }) {
  let number = null; // of the last step; null until a snapshot has said where we are
  let answered = true;
  let timer = 0;
  const tell = (content) => { try { model.send(content); } catch { chat.receive({ type: "dead" }); } };
  const greet = () => {
    answered = false;
    tell({ type: "ready" });
    clearTimeout(timer);
    timer = setTimeout(() => { if (!answered) chat.receive({ type: "dead" }); }, 8000);
  };
  const host = {
    kind: "notebook",
    words: model.get("words"),
    styles: model.get("_css"),
    language: model.get("language"),
    send: tell,
    setLanguage: (language) => { model.set("language", language); model.save_changes(); },
  };
  const onMessage = (content) => {
    const missed = content.type === "step" && (number === null || content.number > number + 1);
    if (missed) {
      number = null;
      return tell({ type: "snapshot" });
    }
    if (content.type === "step" && content.number <= number) return null; // the snapshot has it
    if (content.type === "step" || content.type === "snapshot") number = content.number;
    if (content.type === "alive") answered = true;
    return chat.receive(content);
  };
  const told = (name) => () => chat.receive({ type: name, [name]: model.get(name) });
  const chat = createChat(el, host);
  const heard = {
    "msg:custom": onMessage, "comm_live_update": greet,
    "change:messages": told("messages"), "change:info": told("info"), "change:orders": told("orders"),
  };
  for (const [event, listener] of Object.entries(heard)) model.on(event, listener);
  for (const name of ["orders", "messages", "info"]) told(name)();
  timer = setTimeout(greet, 600); // earlier ones may wait for the cell that is showing us
  return () => {
    clearTimeout(timer);
    for (const [event, listener] of Object.entries(heard)) model.off(event, listener);
    chat.dispose();
  };
}

export default { render };
