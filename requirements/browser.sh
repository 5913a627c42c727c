#!/usr/bin/env bash
# Install what the browser tests need and this machine lacks: Chromium, a font with Chinese, and npm, which fetches axe-core.
set -euo pipefail
missing=()
command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null || missing+=(chromium)
[ -n "$(fc-list :lang=zh 2>/dev/null)" ] || missing+=(fonts-noto-cjk)
command -v npm >/dev/null || missing+=(npm)
[ "${#missing[@]}" -gt 0 ] || exit 0
echo "apt-get install ${missing[*]}"
if ! command -v apt-get >/dev/null || [ "$(id -u)" -ne 0 ]; then
  echo "This needs apt-get and root. Install ${missing[*]} by your system's own means, or name a Chromium in the environment as CHROMIUM." >&2
  exit 1
fi
apt-get update -qq
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
