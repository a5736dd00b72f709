"""A program like ``bare.py``, but with the package requests, which most people use."""

import json
import os
from pathlib import Path

import requests

key = os.environ["SUPABASE_SERVICE_ROLE_KEY"]
answer = requests.get(
    f"{os.environ['SUPABASE_URL']}/rest/v1/api_credentials",
    params={
        "select": "credential_type,credential_value,expires_at,version",
        "service_name": "eq.kis",
        "credential_type": "in.(app_key,app_secret,access_token)",
        "is_active": "is.true",
    },
    headers={"apikey": key, "Authorization": f"Bearer {key}"},
    timeout=5,
)
rows = {row["credential_type"]: row["credential_value"] for row in answer.json()}
token = json.loads(rows["access_token"])["access_token"]
with Path(os.environ["GITHUB_OUTPUT"]).open("a", encoding="utf-8") as file:
    file.write(f"access-token={token}\n")
