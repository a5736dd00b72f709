"""The shortest program that gets a stored token for a step: it sends one GET and writes the output.

The program uses only the standard library. The program makes the same request as the action, and does not check the
answer.
"""

import http.client
import json
import os
from urllib.parse import urlsplit

url = urlsplit(os.environ["SUPABASE_URL"])
key = os.environ["SUPABASE_SERVICE_ROLE_KEY"]
connection = http.client.HTTPSConnection(url.netloc, timeout=5)
connection.request(
    "GET",
    "/rest/v1/api_credentials?select=credential_type,credential_value,expires_at,version&service_name=eq.kis"
    "&credential_type=in.(app_key,app_secret,access_token)&is_active=is.true",
    headers={"apikey": key, "Authorization": f"Bearer {key}", "Accept": "application/json"},
)
rows = {row["credential_type"]: row["credential_value"] for row in json.loads(connection.getresponse().read())}
token = json.loads(rows["access_token"])["access_token"]
with open(os.environ["GITHUB_OUTPUT"], "a", encoding="utf-8") as file:  # noqa: PTH123 - pathlib costs time
    file.write(f"access-token={token}\n")
