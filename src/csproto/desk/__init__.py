"""The line: orders of the customer, message, triage, decision, write, reply. One module a step."""
