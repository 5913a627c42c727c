"""SGLang: its server, the calls to it, grammars, and the plug-in that runs it on a CPU."""
