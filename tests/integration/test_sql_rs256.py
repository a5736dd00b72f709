"""How the database checks the signature of an ID token: published vectors, forged blocks, damaged tokens."""

from __future__ import annotations

import hashlib
import json
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from kis_token.sandbox.database import store_issuer_keys
from kis_token.sandbox.github_issuer import GitHubIssuer, SigningKey, base64url
from tests.keyless import block_of, claims_of, refusal, sign_block
from tests.support import first_of

if TYPE_CHECKING:
    from tests.support import Database

VECTORS: dict[str, Any] = json.loads(Path(__file__).with_name("rs256_vectors.json").read_text(encoding="utf-8"))
MESSAGE = b"eyJhbGciOiJSUzI1NiJ9.e30"


@pytest.fixture
def key(github: GitHubIssuer) -> SigningKey:
    """The issuer's signing key."""
    return github.keys[-1]


def is_signed(database: Database, signature: bytes, modulus: bytes, message: bytes = MESSAGE) -> bool:
    """Return whether the database's function issuance_is_rs256 accepts the signature."""
    rows = database.owner.execute(
        "select public.issuance_is_rs256(%s, %s, %s) as answer", (message, signature, modulus)
    ).fetchall()
    answer = rows[0]["answer"]
    assert isinstance(answer, bool)
    return answer


def test_published_vectors(database: Database) -> None:
    """For NIST's vectors, the function gives the published result.

    The function accepts only SHA-256 and moduli of 2048 bits or more.
    """
    judged = []
    for vector in VECTORS["vectors"]:
        modulus, signature, message = (
            bytes.fromhex(text)
            for text in (VECTORS["moduli"][vector["modulus"]], vector["signature"], vector["message"])
        )
        wanted = vector["result"].startswith("P") and vector["digest"] == "SHA256" and vector["bits"] >= 2048
        assert is_signed(database, signature, modulus, message) is wanted, vector["result"]
        judged.append((vector["bits"], vector["digest"], vector["result"][:4]))

    assert {bits for bits, digest, result in judged if digest == "SHA256" and result.startswith("P")} == {
        *(1024, 1536, 2048, 3072, 4096),
    }
    assert {result for *_, result in judged} == {"P", "F (1", "F (2", "F (3", "F (4", "F (5"}
    assert len(judged) == 41


def forged_blocks(size: int) -> dict[str, bytes]:
    """Return wrong blocks that a lenient check would accept, by the name of the fault."""
    right = block_of(MESSAGE, size)
    digest = hashlib.sha256(MESSAGE).digest()
    prefix = bytes.fromhex("3031300d060960864801650304020105000420")

    def padded(info: bytes, *, lead: bytes = b"\0\1", behind: bytes = b"") -> bytes:
        filling = size - len(lead) - 1 - len(info) - len(behind)
        return lead + b"\xff" * filling + b"\0" + info + behind

    return {
        "digest of another message": block_of(b"other", size),
        "garbage behind the digest": padded(prefix + digest, behind=secrets.token_bytes(40)),
        "hash moved to the left, 8 bytes of padding": b"\0\1"
        + b"\xff" * 8
        + b"\0"
        + prefix
        + digest
        + bytes(size - 62),
        "parameters left out": padded(bytes.fromhex("302f300b0609608648016503040201") + b"\4\x20" + digest),
        "garbage in the parameters": padded(
            bytes.fromhex("3041301d0609608648016503040201") + b"\4\x0e" + bytes(14) + b"\4\x20" + digest
        ),
        "long form of a length": padded(bytes.fromhex("308131300d060960864801650304020105000420") + digest),
        "no DigestInfo": padded(digest),
        "SHA-512": padded(bytes.fromhex("3051300d060960864801650304020305000440") + hashlib.sha512(MESSAGE).digest()),
        "SHA-1": padded(bytes.fromhex("3021300906052b0e03021a05000414") + hashlib.sha1(MESSAGE).digest()),  # noqa: S324
        "block type 2": padded(prefix + digest, lead=b"\0\2"),
        "block type 0": padded(prefix + digest, lead=b"\0\0"),
        "no zero at the start": padded(prefix + digest, lead=b"\1\1"),
        "a padding byte that is not ff": right[:20] + b"\xfe" + right[21:],
        "a zero in the padding": right[:20] + b"\0" + right[21:],
        "no zero behind the padding": right[: size - 52] + b"\xff" + right[size - 51 :],
        "all zero": bytes(size),
        "one": bytes(size - 1) + b"\1",
    }


@pytest.mark.parametrize("bits", first_of(1, [2048, 3072, 4096]))
def test_forged_blocks(database: Database, github: GitHubIssuer, bits: int) -> None:
    """A signature by the right key is accepted only if its block is equal to the whole expected block."""
    key = github.keys[-1] if bits == 2048 else SigningKey.make(bits=bits)
    size = bits // 8

    assert is_signed(database, sign_block(key.private, block_of(MESSAGE, size)), key.modulus)
    taken = [
        name
        for name, block in forged_blocks(size).items()
        if is_signed(database, sign_block(key.private, block), key.modulus)
    ]
    assert taken == []


def test_signatures_that_are_no_number_below_the_modulus(database: Database, key: SigningKey) -> None:
    """For a good signature s and the modulus n, the numbers s + n, n, n - 1, n - s, 0 and 1 are refused."""
    size = len(key.modulus)
    n = int.from_bytes(key.modulus, "big")
    small = next(
        (message, signed)
        for message in (b"message %d" % number for number in range(99))
        if (signed := sign_block(key.private, block_of(message, size)))
        and int.from_bytes(signed, "big") + n < 1 << (8 * size)
    )
    message, good = small
    s = int.from_bytes(good, "big")

    assert is_signed(database, good, key.modulus, message)
    for wrong in (s + n, n, n - 1, 0, 1, (1 << (8 * size)) - 1, n - s):
        assert not is_signed(database, wrong.to_bytes(size, "big"), key.modulus, message)
    for damaged in (b"", b"\0", good[:-1], good[1:], good + b"\0", b"\0" + good, good * 2):
        assert not is_signed(database, damaged, key.modulus, message)


def test_moduli_that_are_too_short_or_too_long(database: Database) -> None:
    """issuance_is_rs256 itself refuses null, and a modulus under 2048 or over 4096 bits."""
    small = SigningKey.make(bits=1024)

    assert not is_signed(database, sign_block(small.private, block_of(MESSAGE, 128)), small.modulus)
    assert not is_signed(database, b"\1" * 513, b"\xff" * 513)
    rows = database.owner.execute(
        "select public.issuance_is_rs256(a, b, c) as answer from (values (null::bytea, 'x'::bytea, 'x'::bytea),"
        " ('x', null, 'x'), ('x', 'x', null)) v (a, b, c)"
    ).fetchall()
    assert [row["answer"] for row in rows] == [False] * 3


def flipped(data: bytes, place: int, bit: int) -> bytes:
    """Return the bytes with one bit changed."""
    return data[:place] + bytes([data[place] ^ (1 << bit)]) + data[place + 1 :]


def test_one_flipped_bit_in_each_byte_of_a_signature(database: Database, key: SigningKey) -> None:
    """A signature is refused if one bit of the signature, in any byte, or one bit of the modulus is wrong."""
    good = sign_block(key.private, block_of(MESSAGE, len(key.modulus)))
    rows = database.owner.execute(
        "select count(*) filter (where public.issuance_is_rs256(%(message)s, s, %(n)s)) as taken, count(*)"
        " from unnest(%(wrong)s::bytea[]) s",
        {
            "message": MESSAGE,
            "n": key.modulus,
            "wrong": [flipped(good, place, place % 8) for place in range(len(good))],
        },
    ).fetchall()
    assert (rows[0]["taken"], rows[0]["count"]) == (0, 256)

    assert not any(is_signed(database, good, flipped(key.modulus, place, 0)) for place in range(0, 256, 32))


def test_one_flipped_bit_in_each_byte_of_a_token(database: Database, github: GitHubIssuer) -> None:
    """If one bit of a token is wrong, in any character, the error is KTA01 or KTA07, as for an unknown token."""
    call_as_owner = "create or replace function pg_temp.refused(t text) returns text language plpgsql as $$ begin"
    database.owner.execute(
        call_as_owner + " perform public.issuance_id_token_claims(t); return 'taken';"
        " exception when others then return sqlstate; end $$"
    )
    store_issuer_keys(database.owner, github)
    token = github.id_token("https://example.supabase.co").encode()
    wrong = [flipped(token, place, place % 7).decode() for place in range(len(token))]
    rows = database.owner.execute(
        "select pg_temp.refused(t) as code, count(*) from unnest(%s::text[]) t group by 1",
        ([text for text in wrong if "\0" not in text],),
    ).fetchall()

    assert {row["code"] for row in rows} <= {"KTA01", "KTA07"}
    assert sum(row["count"] for row in rows) > 1000


def test_encodings_of_one_token(database: Database, github: GitHubIssuer) -> None:
    """An ID token has exactly one text. Other encodings of a token's bytes, added blanks and padding are refused."""
    store_issuer_keys(database.owner, github)
    token = github.id_token("https://example.supabase.co")
    head, body, signature = token.split(".")
    last = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_".index(signature[-1])
    same_bytes = signature[:-1] + "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"[last ^ 1]

    assert claims_of(database, token)["repository_id"] == "74"
    for wrong in (
        f"{head}.{body}.{same_bytes}",
        f"{head}.{body}.{signature}==",
        f"{token}\n",
        f" {token}",
        f"{head}.{body}.{signature[:100]} {signature[100:]}",
        f"{head}.{body}.{signature}.",
        f"{head}.{body}.{signature}.{signature}",
        f"{head}..{body}.{signature}",
        f"{head}.{body}",
        f"{head}.{body}.",
        f".{body}.{signature}",
        "..",
        "",
        f"{head}.{body}.{signature.replace('-', '+').replace('_', '/')}+",
        f"{head}.{body}.{signature}" + "A" * 16384,
    ):
        assert refusal(claims_of, database, wrong).code == "KTA01", wrong[-20:]
    assert refusal(claims_of, database, None).code == "KTA01"
    assert "too long" in refusal(claims_of, database, github.id_token("https://a.example", actor="x" * 13000)).message


def test_headers_that_name_another_way_to_sign(database: Database, github: GitHubIssuer, key: SigningKey) -> None:
    """Another algorithm, a critical extension or another type in the header is refused, although the signature is good.

    Keys, certificates and their addresses in the header have no effect: only the stored key counts.
    """
    store_issuer_keys(database.owner, github)
    claims = github.claims("https://example.supabase.co")
    usual: dict[str, object] = {"alg": "RS256", "typ": "JWT", "kid": key.kid}
    others: tuple[object, ...] = (
        "none",
        "None",
        "",
        "HS256",
        "RS384",
        "RS512",
        "PS256",
        "ES256",
        "rs256",
        None,
        1,
        ["RS256"],
    )
    changes: list[dict[str, object]] = [
        *[{"alg": alg} for alg in others],
        {"crit": ["exp"]},
        {"crit": []},
        {"typ": "JWE"},
        {"typ": "at+jwt"},
        {"typ": ["JWT"]},
        {"typ": 1},
    ]
    for change in changes:
        assert refusal(claims_of, database, key.sign(usual | change, claims)).code == "KTA01", change

    stranger = SigningKey.make(key.kid)
    embedded = usual | {
        "jwk": stranger.jwk(),
        "jku": "https://evil.example/jwks",
        "x5u": "https://evil.example/",
        "x5c": ["AA"],
    }
    assert refusal(claims_of, database, stranger.sign(embedded, claims)).code == "KTA01"
    assert claims_of(database, key.sign(embedded, claims))["repository_id"] == "74"


def test_numbers_in_place_of_texts_stay_small(database: Database, key: SigningKey, github: GitHubIssuer) -> None:
    """A list of numbers such as 1e99999 in a header is never turned into text, so a forged token costs little memory.

    As text, each list of the test would have 145 million characters. The function would need seconds and a gigabyte of
    memory to turn such a list into text.
    """
    store_issuer_keys(database.owner, github)
    numbers = ",".join(["1e99999"] * 1450)
    claims = json.dumps({"iss": github.issuer})
    with database.owner.transaction(force_rollback=True):
        database.owner.execute("set local statement_timeout = '200ms'")
        for header, code in (
            (f'{{"alg": "RS256", "kid": "{key.kid}", "typ": [{numbers}]}}', "KTA01"),
            (f'{{"alg": "RS256", "kid": [{numbers}]}}', "KTA07"),
            (f'{{"alg": [{numbers}]}}', "KTA01"),
        ):
            token = ".".join(base64url(part) for part in (header.encode(), claims.encode(), bytes(256)))
            with database.owner.transaction(force_rollback=True):
                assert refusal(claims_of, database, token).code == code


def test_payloads_that_are_no_claims(database: Database, github: GitHubIssuer) -> None:
    """If a header or payload is not a JSON object in UTF-8, the error is KTA01, and not an error of PostgreSQL."""
    store_issuer_keys(database.owner, github)
    head, _, signature = github.id_token("https://example.supabase.co").split(".")
    parts = (
        *(b"", b"1", b"null", b"[]", b'"text"', b"{", b"{}x", b"\xff\xfe", b'{"iss": "\\u0000"}', b"[" * 12000),
        *(
            b'{"iss": 1e999999999}',
            b'{"iss": {}}',
            b'{"iss": null}',
            b'{"iss": ["https://token.actions.githubusercontent.com"]}',
        ),
    )
    for part in parts:
        assert refusal(claims_of, database, f"{head}.{base64url(part)}.{signature}").code == "KTA01", part[:20]
        assert refusal(claims_of, database, f"{base64url(part)}.e30.{signature}").code == "KTA01", part[:20]
