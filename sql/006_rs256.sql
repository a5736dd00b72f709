-- The database checks the signature of an ID token: RSASSA-PKCS1-v1_5 with SHA-256, which is RS256.
--
-- The owner stores the public keys with which an issuer signs; the database fetches no key. The functions take the ID
-- token as an argument and do not read the claims that PostgREST puts into a setting. PostgREST also accepts tokens of
-- other signers, if the project trusts them. A signer other than the issuer could put the issuer's name into its own
-- tokens. docs/keyless-signature.md explains each step for a reviewer.
--
-- Run this file after 001_api_credentials.sql. You may run the file again at any time.

begin;

-- Returns whether an issuer is accepted: github.com, the issuer of an enterprise on github.com, ghe.com, or GitHub
-- Enterprise Server. An emulated issuer with plain http is accepted only if its host is the database's machine. The
-- database never connects to an issuer.
create or replace function public.issuance_is_issuer(issuer text) returns boolean
    language sql
    immutable
    set search_path = pg_catalog, pg_temp
as $$
    select coalesce(
        issuer ~ '^https://token\.actions\.githubusercontent\.com(/[A-Za-z0-9-]{1,100})?$'
        or issuer ~ '^https://token\.actions\.[a-z0-9-]{1,100}\.ghe\.com$'
        or issuer ~ '^https://[a-z0-9]([a-z0-9.-]{0,250}[a-z0-9])?/_services/token$'
        or issuer ~ '^http://(127\.0\.0\.1|localhost|\[::1\])(:[0-9]{1,5})?$',
        false)
$$;

-- The public exponent has no column, because it is 65537 in every key. A modulus is odd and has 2048 to 4096 bits. The
-- highest bit of the first byte of a modulus is 1.
create table if not exists public.credential_issuer_keys (
    issuer   text not null,
    kid      text not null,
    modulus  bytea not null,
    added_at timestamptz not null default now(),
    primary key (issuer, kid),
    constraint credential_issuer_keys_issuer check (public.issuance_is_issuer(issuer)),
    constraint credential_issuer_keys_kid check (kid ~ '^[!-~]{1,200}$'),
    constraint credential_issuer_keys_modulus check (
        length(modulus) between 256 and 512
        and get_byte(modulus, 0) >= 128
        and get_byte(modulus, length(modulus) - 1) % 2 = 1)
);

comment on table public.credential_issuer_keys is
    'The public RSA keys with which an issuer signs ID tokens; the exponent is 65537. Only the database''s owner may write the table.';
comment on column public.credential_issuer_keys.issuer is 'The claim iss of the tokens that the key signs.';
comment on column public.credential_issuer_keys.kid is 'The key''s name in the header of a token.';
comment on column public.credential_issuer_keys.modulus is 'The modulus n: 256 to 512 bytes, with the most significant byte first.';
comment on column public.credential_issuer_keys.added_at is 'The time at which the key was stored.';

-- Returns the bytes that a base64url text without padding encodes. If the argument is not the exact base64url text of
-- the decoded bytes, returns null. Raises data_exception if the text is not base64.
create or replace function public.issuance_from_base64url(encoded text) returns bytea
    language plpgsql
    immutable
    set search_path = pg_catalog, pg_temp
as $$
declare
    decoded bytea := decode(translate(encoded, '-_', '+/') || repeat('=', (4 - length(encoded) % 4) % 4), 'base64');
begin
    -- A base64url character encodes 6 bits. If the last character of the argument "encoded" has bits that belong to no
    -- byte, these unused bits must be zero. So the function accepts exactly one text for each sequence of bytes.
    if translate(encode(decoded, 'base64'), '+/=' || chr(10), '-_') <> encoded then
        return null;
    end if;
    return decoded;
end
$$;

-- Returns the argument as an unsigned number. The first byte is the most significant byte.
create or replace function public.issuance_number(bytes bytea) returns numeric
    language plpgsql
    immutable
    set search_path = pg_catalog, pg_temp
as $$
declare
    digits text := encode(bytes, 'hex');
    number numeric := 0;
begin
    digits := repeat('0', (14 - length(digits) % 14) % 14) || digits;
    for i in 0 .. length(digits) / 14 - 1 loop  -- each step adds 14 hex digits (56 bits): a bigint has 64 bits
        number := number * 72057594037927936 + ('x' || substr(digits, i * 14 + 1, 14))::bit(56)::bigint;
    end loop;
    return number;
end
$$;

-- Returns whether the key with this modulus made the signature of the signed bytes, as RFC 8017, section 8.2.2,
-- describes. The function makes the whole block that a correct signature contains, and compares this block with the
-- block in the signature. The function compares all bytes and does not parse the block in the signature, so it refuses
-- a block with additional bytes.
create or replace function public.issuance_is_rs256(signed bytea, signature bytea, modulus bytea) returns boolean
    language plpgsql
    immutable
    set search_path = pg_catalog, pg_temp
as $$
declare
    n numeric;
    s numeric;
    m numeric;
    -- The DER prefix of a SHA-256 digest, followed by the digest of the signed bytes.
    expected bytea := '\x3031300d060960864801650304020105000420'::bytea || sha256(signed);
begin
    if signed is null or signature is null or modulus is null
        or length(modulus) not between 256 and 512
        or length(signature) <> length(modulus) then
        return false;
    end if;
    n := public.issuance_number(modulus);
    s := public.issuance_number(signature);
    if s >= n then
        return false;
    end if;
    expected := '\x0001'::bytea
        || decode(repeat('ff', length(modulus) - length(expected) - 3), 'hex')
        || '\x00'::bytea || expected;
    m := s;
    for i in 1 .. 16 loop  -- after the loop, m is s ^ 65536 mod n
        m := mod(m * m, n);
    end loop;
    return mod(m * s, n) = public.issuance_number(expected);
end
$$;

-- Returns the claims of an ID token that a stored key has signed. Before the signature is checked, the function uses
-- only the issuer and the key's name, to find the key. No error contains the issuer's URL. An error shows the key's
-- name only if the name has 1 to 100 characters, and only letters, digits, dots, hyphens and underscores.
create or replace function public.issuance_id_token_claims(id_token text) returns jsonb
    language plpgsql
    stable
    set search_path = pg_catalog, pg_temp
as $$
declare
    parts     text[];
    header    jsonb;
    claims    jsonb;
    signature bytea;
    key       public.credential_issuer_keys;
begin
    if current_setting('request.method', true) in ('GET', 'HEAD') then
        raise exception 'the ID token is in the address of the request, which servers log'
            using errcode = 'KTA01', hint = 'Send it in the body of a POST.';
    end if;
    -- An ID token of GitHub has about 2,000 characters. The longest signature has 683 characters.
    if id_token is null or octet_length(id_token) > 16384 then
        raise exception 'there is no ID token, or it is too long'
            using errcode = 'KTA01', hint = 'Pass the token that GitHub gives the job as id_token.';
    end if;
    if id_token ~ '^[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+$' then
        parts := string_to_array(id_token, '.');
        begin
            header := convert_from(public.issuance_from_base64url(parts[1]), 'UTF8')::jsonb;
            claims := convert_from(public.issuance_from_base64url(parts[2]), 'UTF8')::jsonb;
            signature := public.issuance_from_base64url(parts[3]);
        exception
            when data_exception or statement_too_complex or program_limit_exceeded then
                header := null;
        end;
    end if;
    if jsonb_typeof(header) is distinct from 'object' or jsonb_typeof(claims) is distinct from 'object'
        or signature is null then
        raise exception 'the ID token is not a JSON Web Token'
            using errcode = 'KTA01', hint = 'Pass the token that GitHub gives the job as id_token.';
    end if;
    -- Values whose signature is not checked yet are compared as jsonb and never converted to text. The number 1e131071
    -- has 8 characters and would become a text of 131,072 characters; a list of such numbers would become half a
    -- gigabyte.
    if header -> 'alg' is distinct from '"RS256"'::jsonb or header ? 'crit'
        or header -> 'typ' not in ('"JWT"'::jsonb, '"jwt"'::jsonb) then
        raise exception 'the ID token is not signed in the way that GitHub signs: RS256' using errcode = 'KTA01';
    end if;

    select k.* into key
    from public.credential_issuer_keys k
    where to_jsonb(k.issuer) = claims -> 'iss' and to_jsonb(k.kid) = header -> 'kid';
    if not found then
        if exists (select from public.credential_issuer_keys k where to_jsonb(k.issuer) = claims -> 'iss') then
            raise exception 'the ID token is signed with a key of its issuer that is not stored'
                using errcode = 'KTA07',
                detail = case when jsonb_typeof(header -> 'kid') = 'string'
                    then coalesce('kid: ' || substring(header ->> 'kid' from '^[A-Za-z0-9._-]{1,100}$'), '') else '' end,
                hint = 'Run the SQL that "kis-token trust --keys" prints: it stores the keys that the issuer publishes.';
        end if;
        raise exception 'no key of the ID token''s issuer is stored'
            using errcode = 'KTA01', hint = 'Run the SQL that "kis-token trust" prints: it stores the issuer''s keys.';
    end if;
    if not public.issuance_is_rs256(convert_to(parts[1] || '.' || parts[2], 'UTF8'), signature, key.modulus) then
        raise exception 'the signature of the ID token is wrong' using errcode = 'KTA01';
    end if;
    return claims;
end
$$;

-- Access -----------------------------------------------------------------------------------------------------------

alter table public.credential_issuer_keys enable row level security;
drop policy if exists credential_issuer_keys_nobody on public.credential_issuer_keys;
create policy credential_issuer_keys_nobody on public.credential_issuer_keys
    for all to public using (false) with check (false);

-- service_role also has no right on this table, because a key in this table can sign ID tokens for every caller.
revoke all on table public.credential_issuer_keys from public, anon, authenticated, service_role;
revoke all on function
    public.issuance_is_issuer(text),
    public.issuance_from_base64url(text),
    public.issuance_number(bytea),
    public.issuance_is_rs256(bytea, bytea, bytea),
    public.issuance_id_token_claims(text)
from public, anon, authenticated, service_role;

notify pgrst, 'reload schema';

commit;
