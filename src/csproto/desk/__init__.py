"""The service desk, which answers a customer's messages.

`assistant` is the way in, and `steps` has the steps of one turn. A message passes the modules in
this order:

- `admission` decides whether the desk takes the message.
- `conversation` holds what is kept between messages and saves it in the database.
- `transcript` cleans the message and tells the model of orders and decisions.
- `prompt` builds the messages before the transcript; `profile` fits them to a model.
- `references` finds the order numbers in the message; `guess` guesses the intent.
- `triage` makes the grammar for the model's reading and parses what the model writes.
- `reader` calls the model; `sureness` says how sure the model was of its reading.
- `dialogue` decides which wishes and orders the message is about. `state` holds what it
  carries over to the next message, `questions` keeps the open question, and `yes` decides
  with the words of `lexicon` whether a message is a clear yes to it. `outage` takes the
  place of `dialogue` while the order system is down.
- `policy` decides one wish for one order; `case` holds what a rule sees and decides, and
  `risk` scores a payment.
- `reply` lists the wordings among which the model chooses.
- `choices` makes the buttons below the reply.
- `turn` holds the result.

All of them take the shop's rules, wordings and values from `handbook`.
"""
