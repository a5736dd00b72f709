# On a laptop or a server: `kis-token exec` gives a command the token and the keys as environment variables.
# It needs SUPABASE_URL and SUPABASE_SERVICE_ROLE_KEY in the environment. Run `uv tool install kis-token` once before.
set -eu

kis-token exec -- sh quote.sh "$1"
