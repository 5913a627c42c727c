// ---- messages: the same steps as messages.py

export function applyStep(message, step) {
  if (step.step === "triage") {
    const { triage, sure, runner_up } = step;
    Object.assign(message, { triage, sure, runner_up });
  } else if (step.step === "decision") message.decisions.push(step.decision);
  else if (step.step === "token") message.reply += step.text;
  else if (step.step === "done") Object.assign(message, step.turn, { state: "done" });
  else if (step.step === "stopped") message.state = "stopped";
  else if (step.step === "failed") {
    message.state = "failed";
    message.error = { code: step.code, reason: step.reason };
  }
  return message;
}
