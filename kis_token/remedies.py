"""The remedy for each error code: the sentence after an error's message. docs/troubleshooting.md explains each code."""

from __future__ import annotations

_KEYS_HINT = (
    "Compare key and secret with the KIS developers' site. Real and paper accounts have different keys (input "
    "environment). A secret that was cut off or lacks its last '=' is refused too."
)
_TRUST_HINT = (
    "If a company's network inspects this machine's connections, set SSL_CERT_FILE or REQUESTS_CA_BUNDLE to the file "
    "with this company's certificate. If the message names a variable, correct or remove it."
)
_MIGRATE_HINT = "Run the files of sql/ in the SQL editor of the Supabase project, in the order of their names."

#: The remedies, by error code.
REMEDIES: dict[str, str] = {
    # settings
    "missing-supabase-url": "Set supabase-url or SUPABASE_URL to the project's URL, https://<project>.supabase.co.",
    "invalid-supabase-url": "Give the project's URL alone, https://<project>.supabase.co, without a path.",
    "missing-supabase-key": (
        "Set supabase-key or SUPABASE_SERVICE_ROLE_KEY to the project's service_role or sb_secret_ key, from the "
        "page API Keys of the project's settings."
    ),
    "invalid-supabase-key": (
        "Copy the key again: one line of ASCII without blanks. A read-only key has two parts: first the public key, "
        "then a JWT."
    ),
    "supabase-key-of-another-project": "Copy URL and key from the settings of the same project.",
    "anon-supabase-key": (
        "In GitHub Actions, give the job the permission that gets ID tokens, permissions: id-token: write. Outside "
        "GitHub Actions, use the service_role or sb_secret_ key."
    ),
    "id-token-missing": "Try again later. While GitHub gives no ID token, a valid cached token is used.",
    "id-token-refused": "Give the job the permission: permissions: id-token: write.",
    "id-token-unavailable": "Try again later. While GitHub does not answer, a cached token is used.",
    "id-token-unknown": (
        "Store the keys of the job's issuer in Supabase: run the SQL that kis-token trust --keys prints."
    ),
    "id-token-key-unknown": "Store the issuer's new keys in Supabase: run the SQL that kis-token trust --keys prints.",
    "id-token-audience": "Set supabase-url to the URL in the column audience of the list of callers.",
    "id-token-expired": (
        "Run the job again. If the job fails again, compare the clock of the server that signs ID tokens with the "
        "database's clock."
    ),
    "id-token-replayed": "Run the job again.",
    "caller-not-listed": "If this job may have access, run the statement of the message in the SQL editor.",
    "caller-may-not": "If this job may have more access, change the column access of its row in the list of callers.",
    "secrets-withheld": (
        "GitHub gives no secrets to pull requests from forks and from Dependabot. Run this job on push, or skip this "
        "job for such pull requests with an if: condition."
    ),
    "no-public-key": (
        "Set SUPABASE_PUBLISHABLE_KEY to the project's sb_publishable_ or anon key. With --with-secret, the public "
        "key is not needed."
    ),
    "missing-repository": (
        "Give --repository OWNER/REPO, or run the command in a clone of the repository. With --with-secret, the "
        "repository's name is not needed."
    ),
    "missing-app-key": "Store the rows app_key and app_secret of this slot in Supabase, or give both as inputs.",
    "incomplete-app-key": "Give app-key and app-secret together, or neither.",
    "invalid-app-key": "Copy the app key again from the KIS developers' site: it is one line without blanks.",
    "invalid-app-secret": "Copy the app secret again from the KIS developers' site: it is one line without blanks.",
    "swapped-app-key": (
        "Check both values: a KIS app key has 36 characters and begins with PS, and an app secret has 180. To replace "
        "stored values, run kis-token set-keys."
    ),
    "invalid-environment": "Use production or paper.",
    "invalid-mode": "Use resolve, rotate, force or check.",
    "invalid-duration": "Use numbers with s, m, h or d, such as 90s or 1h30m; min-validity may be at most 12h.",
    "invalid-boolean": "Use true or false.",
    "invalid-service-name": "Use up to 63 letters, digits, '_', '.' and '-'. Begin with a letter or digit.",
    "invalid-base-url": (
        "Use https://host:port without a path, or leave the value out to use KIS's own hosts. Plain http is only for "
        "127.0.0.1 and localhost."
    ),
    "invalid-on-store-outage": "Use issue or fail.",
    "invalid-token-files": (
        "Use kis-auth, python-kis, kis-trader and koreainvestment-cli, separated by commas or blanks. Give any other "
        "client the token by an output or by the variable KIS_ACCESS_TOKEN."
    ),
    "missing-hts-id": (
        "Set the variable KIS_HTS_ID to the id that you give python-kis: the token file's name contains this id."
    ),
    "invalid-hts-id": "KIS_HTS_ID is the id of your HTS login: letters, digits, '@', '_', '.' and '-'.",
    "invalid-cache-path": "Give the path of a file, or off.",
    "invalid-encryption-key": (
        "Put each key on its own line. A key is 32 bytes in base64, as kis-token keygen makes it."
    ),
    "missing-encryption-key": (
        "Set KIS_TOKEN_ENCRYPTION_KEY to a key from kis-token keygen, or to several keys, each on its own line."
    ),
    "profile-unknown": "Use the name of a profile that kis-token init has kept, or unset KIS_PROFILE.",
    "profile-unusable": (
        "Run kis-token init to store the settings again, or set SUPABASE_URL and SUPABASE_SERVICE_ROLE_KEY. If the key "
        "is in the keyring, unlock the keyring and install the extra: kis-token[keyring]."
    ),
    # store
    "store-unreachable": (
        "If the outage lasts, look at the project in Supabase's dashboard and at status.supabase.com."
    ),
    "store-restricted": (
        "Look at the organization's usage and billing in Supabase's dashboard. The restriction ends when the billing "
        "period ends, when the organization gets a larger plan, or when the bill is paid. While the project is "
        "restricted, only cached tokens can be used."
    ),
    "store-paused": "Restore the project in Supabase's dashboard. On the free plan Supabase pauses unused projects.",
    "store-database-read-only": (
        "Look at the database's size and disk in Supabase's dashboard. Make the database smaller, or enlarge its "
        "disk. Then disable the read-only mode. Stored tokens stay readable."
    ),
    "store-tls": _TRUST_HINT,
    "store-redirects": (
        "Open supabase-url in a browser on this machine. If the network asks for a login, log in. If supabase-url is "
        "not the project's own address, set supabase-url to the project's own address."
    ),
    "store-not-supabase": "Copy the URL again from the page Data API of the project's settings: https://<project>.supabase.co.",
    "store-key-rejected": "Copy URL and key from the settings of the same project.",
    "store-key-expired": "Set supabase-key to a new key. For a read-only key see docs/security.md.",
    "store-legacy-keys-disabled": (
        "Set supabase-key to an sb_secret_ key from the page API Keys of the project's settings, or enable the legacy "
        "keys on that page again. In a read-only key, replace the anon key by the sb_publishable_ key."
    ),
    "store-permission-denied": (
        "Use the service_role or sb_secret_ key. If you already use a service_role or sb_secret_ key: " + _MIGRATE_HINT
    ),
    "store-read-only": "Renew the token in a job that has the service_role or sb_secret_ key, such as the rotation.",
    "store-table-missing": _MIGRATE_HINT,
    "store-column-missing": _MIGRATE_HINT,
    "store-function-missing": _MIGRATE_HINT,
    "store-function-ambiguous": (
        "Run the statements of the message in the SQL editor of the Supabase project. Then run the files of sql/ in "
        "the same SQL editor, in the order of their names."
    ),
    "store-schema-outdated": _MIGRATE_HINT + " After these files have run, older releases of this action still work.",
    "store-cannot-store": (
        "The message names the column, the constraint or the trigger that prevents the write. Change the table, then "
        "run kis-token check, which stores a made-up token and removes it."
    ),
    "store-value-too-large": "Store the right value again, or delete the row.",
    "store-rejected": "If this release is newer than the tables: " + _MIGRATE_HINT,
    # tokens
    "token-unusable": "You need to do nothing: the next issued token replaces the value.",
    "token-of-another-key": (
        "Give each account its own service-name and cache-path. If the key was changed on purpose, run kis-token "
        "set-keys, which deactivates the old token."
    ),
    "token-of-another-environment": (
        "Real and paper tokens are not interchangeable. Give each environment its own service-name."
    ),
    "sealed-without-key": "Set encryption-key to the key that sealed the value.",
    "plain-with-key": (
        "If the value was sealed before, find out first who replaced it. Then run kis-token seal with the given "
        "encryption-key."
    ),
    "seal-broken": (
        "Give the encryption-key that sealed the value. If the value is damaged, store the value again or delete its "
        "row."
    ),
    # KIS
    "kis-key-refused": _KEYS_HINT + " Many calls in a short time can also lock a correct key for a day.",
    "kis-secret-refused": _KEYS_HINT,
    "kis-keys-refused": _KEYS_HINT,
    "kis-rate-limited": (
        "KIS issues one token a minute for an app key. If this error repeats, look for another program that uses this "
        "key."
    ),
    "kis-unreachable": "Look for maintenance in the notices of the KIS developers' site.",
    "kis-tls": _TRUST_HINT,
    "kis-answer-unusable": "KIS did not answer as documented. Try again in some minutes.",
    # issuing
    "key-in-two-slots": "Use the same service-name for this app key everywhere.",
    "app-key-changed": "Another caller is storing keys for this slot. Run again when that caller has finished.",
    "token-repeated": (
        "For 6 hours after KIS issues a token, KIS gives the same token again, even if KIS rejects it. Run again after "
        "the time in the message."
    ),
    "token-too-young": "KIS issues one token a day. Use the stored token; if KIS rejects it, renew it by force.",
    "wait-too-long": (
        "Another job is issuing, or KIS must not be called for a while. Run again, or set a longer timeout."
    ),
    "timed-out": "The last lines of the log name the part that did not answer. Run again, or set a longer timeout.",
    "no-valid-token": "mode: check never issues. Run the step once with mode: resolve.",
    # cache and machine
    "proxy-unusable": (
        "Set the variable to http://host:port, or to http://user:password@host:port if the proxy needs a login. If "
        "the host can be reached without the proxy, name the host in NO_PROXY."
    ),
    "no-private-folder": (
        "Without Supabase, the jobs of a machine share a lock in a private folder. Give this user a home or a "
        "temporary folder that no other user can write to."
    ),
    "cache-unwritable": "Set cache-path to a file in a folder that this user may write, or to off.",
    "file-unwritable": "Correct the file that the message names, or give --directory another folder of this user.",
    "export-failed": (
        "This user must own the file, and must be able to write to its folder. HOME, XDG_CACHE_HOME and KIS_CLI_HOME "
        "name the clients' folders."
    ),
    "output-unwritable": "Run the action as a step of a workflow. Outside a workflow, use the command kis-token get.",
    "python-missing": "Install Python 3.10 or newer, or add a step with actions/setup-python before this one.",
    "pip-missing": "Install pip for this Python, or uv, or add a step with actions/setup-python before this one.",
    "runtime-failed": (
        "Installing needs the package index, and a folder that no other user can change: RUNNER_TOOL_CACHE, the user's "
        "cache folder, RUNNER_TEMP or the system's temporary folder."
    ),
    "platform-unsupported": "Choose another version of Python with actions/setup-python, or another runner.",
    # GitHub
    "invalid-caller": (
        "Correct the option that the message names. The list of callers has whole names and no patterns. The list "
        "cannot hold branches of Dependabot, or events that people without write access can cause."
    ),
    "github-unreachable": (
        "Try again later. With --repository-id and --owner-id, the command asks GitHub only for the issuer's keys."
    ),
    "github-repository-unknown": (
        "Use the repository's current name. For a private repository, sign in with gh auth login, set GH_TOKEN, or "
        "give --repository-id and --owner-id."
    ),
    "github-refused": (
        "Sign in with gh auth login, or set GH_TOKEN to a token that is valid; or give --repository-id and "
        "--owner-id. Without a sign-in, GitHub answers at most 60 requests an hour."
    ),
    "sandbox-missing": "Install the extra: pip install 'kis-token[sandbox]'.",
    "sandbox-failed": "The sandbox needs PostgreSQL. The message is PostgreSQL's own.",
    "internal-error": "This is a defect of the action. Please report it with this message.",
}
