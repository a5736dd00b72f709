# For a laptop or a server: `kis-token exec` gives a command the token and the keys as environment variables.
# This script needs SUPABASE_URL and SUPABASE_SERVICE_ROLE_KEY in the environment. First run `uv tool install kis-token`
# once.
set -eu

kis-token exec -- sh quote.sh "$1"
