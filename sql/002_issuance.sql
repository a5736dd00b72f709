-- The lease: only the functions of this file decide which caller may ask KIS for a token. The functions use only the
-- database's clock.
--
-- A caller begins, calls tokenP once, and commits or aborts. begin_issuance grants the lease to one caller at a time.
-- KIS allows one tokenP call a minute. So the next lease is granted more than a minute after the previous lease. If the
-- holder aborts its lease, the holder sets the time until the next lease. Each lease has a fence, a number that grows
-- with every granted lease. If a caller is suspended until its lease has ended, the caller's fence is old. So the
-- caller's commit cannot overwrite a newer token.
--
-- Every function locks the slot's lease first, and reads clock_timestamp() after it has the lock. now() would return a
-- time before the wait for the lock. All constants of the protocol are in this file.
--
-- Run this file after 001_api_credentials.sql. You may run the file again at any time.

begin;

create table if not exists public.credential_leases (
    service_name          text primary key,
    fence                 bigint not null default 0,
    holder                uuid,
    holder_label          text,
    granted_at            timestamptz,
    lease_until           timestamptz,
    not_before            timestamptz,
    token_id              text,
    token_version         bigint,
    issued_at             timestamptz,
    app_key_id            text unique,
    rejected_token_id     text,
    refused_credential_id text,
    refused_until         timestamptz,
    last_error            text
);

comment on table public.credential_leases is
    'One row for each slot: the holder of the lease, and the time of the next grant. Only the functions of sql/ read and write the table.';
comment on column public.credential_leases.service_name is 'The slot: the same value as service_name in api_credentials.';
comment on column public.credential_leases.fence is 'Grows each time a lease is granted. A commit or abort must name the current fence.';
comment on column public.credential_leases.holder is 'The id of the attempt that holds the lease; null if the lease is free.';
comment on column public.credential_leases.holder_label is 'The holder as text: a workflow run or a host.';
comment on column public.credential_leases.granted_at is 'The time at which the last lease was granted.';
comment on column public.credential_leases.lease_until is 'The end of the lease. Until the lease ends, all other callers wait.';
comment on column public.credential_leases.not_before is 'The earliest time at which the next lease can be granted. KIS allows one tokenP call a minute.';
comment on column public.credential_leases.token_id is
    'First 16 hex digits of the SHA-256 of the last token that the functions of sql/ stored.';
comment on column public.credential_leases.token_version is
    'The version that the token''s row had after the functions of sql/ wrote the row. If the row now has another version, another program has written the row.';
comment on column public.credential_leases.issued_at is 'The time at which KIS issued the token with the hash token_id.';
comment on column public.credential_leases.app_key_id is
    'First 16 hex digits of the SHA-256 of the slot''s app key. One app key belongs to one slot.';
comment on column public.credential_leases.rejected_token_id is
    'The hash of the last token that was rejected or revoked. The slot''s row rejected_tokens has the hashes of all such tokens.';
comment on column public.credential_leases.refused_credential_id is 'The hash of the app key and secret that KIS refused last.';
comment on column public.credential_leases.refused_until is 'The time from which the refused app key and secret can be tried again. Another app key and secret can be tried at once.';
comment on column public.credential_leases.last_error is
    'Error code of the last attempt; null after a success. token-repeated: KIS answered with a rejected token.';

create table if not exists public.credential_issuances (
    id           bigint generated always as identity primary key,
    service_name text not null,
    happened_at  timestamptz not null,
    outcome      text not null,
    fence        bigint not null,
    holder       uuid,
    holder_label text,
    app_key_id   text,
    token_id     text,
    error_code   text
);

create index if not exists idx_credential_issuances_service on public.credential_issuances (service_name, id desc);
create index if not exists idx_credential_issuances_happened on public.credential_issuances (happened_at);

comment on table public.credential_issuances is
    'The log: one row for each event. A row is never changed. The column outcome has the name of the event.';
comment on column public.credential_issuances.id is 'A number that grows from event to event, so it gives the order of the events.';
comment on column public.credential_issuances.service_name is 'The slot.';
comment on column public.credential_issuances.happened_at is 'The time of the event, by this database''s clock.';
comment on column public.credential_issuances.outcome is
    'The name of the event. "granted": a caller got the lease. After the event "granted", the log has one of the events "committed", "unchanged", "fenced" and "aborted" with the same fence. If the lease has ended and the log has no such event, the holder''s process ended too early. "saved": a token was stored without a lease. "revoked": the owner revoked a token at KIS.';
comment on column public.credential_issuances.fence is 'The fence of the lease that the event belongs to.';
comment on column public.credential_issuances.holder is 'The id of the attempt.';
comment on column public.credential_issuances.holder_label is 'The holder as text.';
comment on column public.credential_issuances.app_key_id is 'The hash of the app key.';
comment on column public.credential_issuances.token_id is 'The hash of the token.';
comment on column public.credential_issuances.error_code is 'The error code of an event "aborted".';

-- Helpers ----------------------------------------------------------------------------------------------------------
-- The helpers are in PL/pgSQL, because PL/pgSQL keeps query plans for a whole session. PostgreSQL would plan a function
-- in the language SQL at each call.

-- Returns the hash of a token that is stored as plain JSON. Returns null if the value is sealed, or if it is not a JSON
-- object with the text access_token. If a client wrote the token's row without the functions of this file, the row of
-- the lease has no hash of the token, and the functions of this file get the hash from issuance_plain_token_id.
create or replace function public.issuance_plain_token_id(value text) returns text
    language plpgsql
    immutable
    set search_path = pg_catalog, pg_temp
as $$
begin
    if jsonb_typeof(value::jsonb -> 'access_token') <> 'string' then
        return null;
    end if;
    return left(encode(sha256(convert_to(nullif(value::jsonb ->> 'access_token', ''), 'UTF8')), 'hex'), 16);
exception
    when data_exception or statement_too_complex then
        return null;
end
$$;

-- Raises 22023 (invalid_parameter_value) if the argument is not a service name.
create or replace function public.issuance_check_service(service text) returns void
    language plpgsql
    immutable
    set search_path = pg_catalog, pg_temp
as $$
begin
    if service is null or service !~ '^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$' then
        raise exception 'not a service name'
            using errcode = '22023', hint = 'Up to 63 letters, digits, "_", "." and "-", a letter or digit first.';
    end if;
end
$$;

create or replace function public.issuance_check_token(value text, expires_at timestamptz) returns void
    language plpgsql
    set search_path = pg_catalog, pg_temp
as $$
begin
    if value is null
        or length(value) > 65536
        or not (value ~ '^enc:v1:[^:]+:[A-Za-z0-9_=-]+$' or public.issuance_plain_token_id(value) is not null) then
        raise exception 'not a token'
            using errcode = '22023', hint = 'A JSON string with a member access_token, or an enc:v1: envelope.';
    end if;
    if expires_at is null or not isfinite(expires_at) or expires_at <= clock_timestamp() then
        raise exception 'expires_at must be a time in the future' using errcode = '22023';
    end if;
end
$$;

-- Locks the slot's lease and returns the lease's row. If the row is missing, this function inserts it.
create or replace function public.issuance_lock(service text) returns public.credential_leases
    language plpgsql
    set search_path = pg_catalog, pg_temp
as $$
declare
    lease public.credential_leases;
begin
    select l.* into lease from public.credential_leases l where l.service_name = service for update;
    if not found then
        insert into public.credential_leases (service_name) values (service) on conflict do nothing;
        select l.* into strict lease from public.credential_leases l where l.service_name = service for update;
    end if;
    return lease;
end
$$;

create or replace function public.issuance_log(
    lease public.credential_leases, outcome text, token_id text default null, error_code text default null
) returns void
    language plpgsql
    set search_path = pg_catalog, pg_temp
as $$
begin
    insert into public.credential_issuances
        (service_name, happened_at, outcome, fence, holder, holder_label, app_key_id, token_id, error_code)
    values
        (lease.service_name, clock_timestamp(), outcome, lease.fence, lease.holder, lease.holder_label,
         lease.app_key_id, token_id, error_code);
end
$$;

-- Returns the row of the slot's active token, or nulls if there is no such row. A row whose credential_value is null is
-- ignored. A session keeps its query plans for the column types that it has seen. So the casts give the result the same
-- types, even if the type of a column changes.
drop function if exists public.issuance_token_row(text);
create or replace function public.issuance_token_row(
    service text,
    out version bigint, out credential_value text, out expires_at timestamptz, out updated_at timestamptz
)
    language plpgsql
    stable
    set search_path = pg_catalog, pg_temp
as $$
begin
    select c.version, c.credential_value::text, c.expires_at::timestamptz, c.updated_at::timestamptz
    into version, credential_value, expires_at, updated_at
    from public.api_credentials c
    where c.service_name = service and c.credential_type = 'access_token' and c.is_active
      and c.credential_value is not null;
end
$$;

-- Returns the version of the row with the slot's app key, or 0 if there is no such row. If a caller has read another
-- version of the slot's app_key row, the caller's app key and secret are no longer those of the slot.
create or replace function public.issuance_keys_version(service text) returns bigint
    language plpgsql
    stable
    set search_path = pg_catalog, pg_temp
as $$
begin
    return (select coalesce(max(c.version), 0) from public.api_credentials c
            where c.service_name = service and c.credential_type = 'app_key' and c.is_active
              and c.credential_value is not null);
end
$$;

-- Raises an error that replaces PostgreSQL's error. The text of PostgreSQL's error may show the row to the caller and
-- in the server's log. Each write of a secret catches all errors and calls this function.
--
-- The error names the SQLSTATE, the column, the constraint and the function that refused the row. The error repeats
-- PostgreSQL's text only if that text contains names and types, but no values. For the SQLSTATEs in the code below, the
-- text of an error in a statement of this project contains no values. The text of an error in a trigger may contain
-- values. The detail store-cannot-store means that repeating the call does not help. If the error is temporary, such as
-- a deadlock, a full disk or a read-only database, the detail is empty. A SQLSTATE that has a special meaning for
-- PostgREST is replaced by KT001.
drop function if exists public.issuance_raise_unwritten(text, text, text);
create or replace function public.issuance_raise_unwritten(
    state text, column_name text, constraint_name text, words text default null, context text default null
) returns void
    language plpgsql
    set search_path = pg_catalog, pg_temp
as $$
declare
    is_passing boolean := state ~ '^(08|25|40|53|57|58|XX|55P03)';
    is_ours    boolean := context ~ '^[^"\n]*("((insert into|update) public\.api_credentials |set constraints )|public\.(issuance_put|set_app_key|reseal)\()';
    its_maker  text := coalesce(substring(context from '^SQL function "([A-Za-z0-9_.]+)"'),
                                substring(context from '([A-Za-z0-9_.]+)\([^"\n]*\) line [0-9]+ at '));
begin
    raise exception 'api_credentials does not take the row (%)',
        concat_ws(
            ', ', state, 'column ' || nullif(column_name, ''), 'constraint ' || nullif(constraint_name, ''),
            case when not is_ours and its_maker !~ '^public\.issuance_' then 'function ' || its_maker end)
        || case when is_ours and state ~ '^(0A|22001|23|42|54|55)' then ': ' || coalesce(words, '') else '' end
        using errcode = case when state ~ '^P[GT]' then 'KT001' else state end,
        detail = case when is_passing then '' else 'store-cannot-store' end,
        column = column_name, constraint = constraint_name,
        hint = 'Look for columns, constraints and triggers of the table that these files did not make.';
end
$$;

-- Writes a row of the slot and makes the row active. Returns the row's new version.
create or replace function public.issuance_put(
    service text, kind text, value text, expires_at timestamptz, description text
) returns bigint
    language plpgsql
    set search_path = pg_catalog, pg_temp
as $$
declare
    its_column     text;
    its_constraint text;
    its_words      text;
    its_context    text;
    new_version    bigint;
begin
    insert into public.api_credentials as c
        (service_name, credential_type, credential_value, expires_at, is_active, environment, description)
    values
        (service, kind, value, issuance_put.expires_at, true,
         coalesce((select k.environment from public.api_credentials k
                   where k.service_name = service and k.credential_type = 'app_key'),
                  case when service = 'kis-paper' then 'paper' else 'production' end),
         issuance_put.description)
    on conflict (service_name, credential_type) do update
        set credential_value = excluded.credential_value, expires_at = excluded.expires_at, is_active = true
    returning c.version into new_version;
    set constraints all immediate;  -- checks deferred constraints now, so that this block catches their errors
    return new_version;
exception
    when others then
        get stacked diagnostics its_column = column_name, its_constraint = constraint_name,
            its_words = message_text, its_context = pg_exception_context;
        perform public.issuance_raise_unwritten(sqlstate, its_column, its_constraint, its_words, its_context);
end
$$;

-- Writes the slot's token and makes its row active. Returns the row's new version.
create or replace function public.issuance_write(service text, value text, expires_at timestamptz) returns bigint
    language plpgsql
    set search_path = pg_catalog, pg_temp
as $$
begin
    return public.issuance_put(
        service, 'access_token', value, expires_at, 'KIS OAuth access token, renewed automatically'
    );
end
$$;

-- Tests whether the slot can store a token, before a caller asks KIS for a token. If the slot cannot store a token, the
-- function raises an error with the reason. The function writes a made-up token with issuance_put, as commit_issuance
-- does, reads the row, and rolls the write back. So no other caller sees the made-up token. The rollback does not reset
-- sequences, so each test uses some of their numbers. The made-up token is as long as KIS's longest token. If the slot
-- has sealed values, the function tries a sealed token first. If the slot has no sealed values, the function tries a
-- plain token first. If the table refuses the first token, the function tries a second token: a plain token after a
-- sealed token, or a sealed token after a plain token. The test succeeds if the table stores the first or the second
-- token.
create or replace function public.issuance_prove(service text) returns void
    language plpgsql
    set search_path = pg_catalog, pg_temp
as $$
declare
    -- The made-up token differs in each transaction, because the table may require unique values.
    filler  text := repeat(lpad(pg_current_xact_id()::text, 16, '0'), 48);
    its_end timestamptz := date_trunc('second', clock_timestamp()) + interval '1 day';
    sealed  boolean := exists (
        select from public.api_credentials c
        where c.service_name = service and c.credential_type in ('app_key', 'app_secret', 'access_token')
          and c.credential_value::text like 'enc:v1:%');
    form    text;
    written bigint;
    changed text;
    state   text;
    words   text;
    mark    text;
    first   text;
begin
    for attempt in 1..2 loop
        form := case when sealed then
            'enc:v1:' || left(filler, 8) || ':' || left(filler, 764)
        else
            replace(replace(
                '{"access_token": "eyJ0eXAiOiJKV1QiLCJhbGciOiJIUzUxMiJ9.' || left(filler, 226) || '.' || left(filler, 86)
                || '", "expires_at": "<time>", "issued_at": "<time>", "app_key_id": "<key>", "environment": "production"}',
                '<time>', to_char(its_end, 'YYYY-MM-DD"T"HH24:MI:SS+00:00')), '<key>', left(filler, 16))
        end;
        sealed := not sealed;  -- of the two tokens that the loop writes, one is sealed and one is plain
        begin
            written := public.issuance_put(  -- as issuance_write does
                service, 'access_token', form, its_end, 'KIS OAuth access token, renewed automatically');
            select case
                when c.version is distinct from written then 'the row itself'
                when c.credential_value::text is distinct from form then 'column credential_value'
                when c.expires_at::text is distinct from its_end::text then 'column expires_at'
                when pg_typeof(c.expires_at) <> 'timestamptz'::regtype then 'column expires_at is ' || pg_typeof(c.expires_at)
                else '' end
            into changed
            from public.api_credentials c
            where c.service_name = service and c.credential_type = 'access_token' and c.is_active;
            if changed <> '' or changed is null then
                raise exception 'api_credentials does not keep the row as it is written (%)', coalesce(changed, 'the row itself')
                    using errcode = 'KT001', detail = 'store-cannot-store';
            end if;
            raise exception 'taken back' using errcode = 'KT002';
        exception
            when sqlstate 'KT002' then
                return;
            when others then
                get stacked diagnostics state = returned_sqlstate, words = message_text, mark = pg_exception_detail;
                if mark <> 'store-cannot-store' then
                    raise;
                elsif first is not null then
                    raise exception '%', first
                        using errcode = state, detail = mark, hint = 'No token can be stored, so KIS is not called.';
                end if;
                first := words;
        end;
    end loop;
end
$$;

-- Returns the hash and the expiry of each token that the slot remembers as rejected or revoked. The value of the slot's
-- row rejected_tokens is a JSON object that maps the hash of a token to the expiry of the token. If the value of the
-- row rejected_tokens is not a JSON object of hashes and times, the function returns no rows.
create or replace function public.issuance_rejected(service text)
    returns table (token_id text, ends_at timestamptz)
    language plpgsql
    stable
    set search_path = pg_catalog, pg_temp
as $$
begin
    return query
        select e.key, e.value::timestamptz
        from public.api_credentials c, jsonb_each_text(c.credential_value::jsonb) e
        where c.service_name = service and c.credential_type = 'rejected_tokens' and c.is_active
          and e.key ~ '^[0-9a-f]{16}$' and e.value::timestamptz > clock_timestamp();
exception
    when data_exception or statement_too_complex then
        return;
end
$$;

create or replace function public.issuance_rejected_ids(service text) returns text[]
    language plpgsql
    stable
    set search_path = pg_catalog, pg_temp
as $$
begin
    -- Most slots have no row rejected_tokens. If the slot has no row rejected_tokens, this check returns early, which
    -- makes begin_issuance faster.
    if not exists (select from public.api_credentials c
                   where c.service_name = service and c.credential_type = 'rejected_tokens' and c.is_active) then
        return '{}';
    end if;
    return (select coalesce(array_agg(r.token_id order by r.token_id), '{}') from public.issuance_rejected(service) r);
end
$$;

-- Remembers a token as rejected until the token expires. ends_at is the expiry in the token's row, or null if the token
-- has no row. The expiry in a row can be wrong: too early (a time without an offset) or infinite. So the function
-- remembers an expiry that is at least one day and at most 90 days in the future. The longest validity of a token at
-- KIS is 90 days.
create or replace function public.issuance_reject(service text, token_id text, ends_at timestamptz) returns void
    language plpgsql
    set search_path = pg_catalog, pg_temp
as $$
declare
    t         timestamptz := clock_timestamp();
    known_end timestamptz;
    its_end   timestamptz;
    value     text;
    last_end  timestamptz;
begin
    select max(r.ends_at) into known_end from public.issuance_rejected(service) r
    where r.token_id = issuance_reject.token_id;
    its_end := case
        when ends_at is not null then
            greatest(known_end, least(greatest(ends_at, t + interval '1 day'), t + interval '90 days'))
        else coalesce(known_end, t + interval '90 days')
    end;

    -- A slot remembers at most 100 rejected tokens: the token of this call, and the 99 older entries with the latest
    -- expiry.
    select jsonb_object_agg(e.token_id, e.ends_at)::text, max(e.ends_at) into strict value, last_end
    from (
        (select r.token_id, r.ends_at from public.issuance_rejected(service) r
         where r.token_id <> issuance_reject.token_id
         order by r.ends_at desc limit 99)
        union all
        select issuance_reject.token_id, its_end
    ) e;
    perform public.issuance_put(
        service, 'rejected_tokens', value, last_end, 'Tokens that KIS rejects, hashed, and when each ends'
    );
    update public.credential_leases l set rejected_token_id = issuance_reject.token_id where l.service_name = service;
end
$$;

-- The protocol -----------------------------------------------------------------------------------------------------

-- Earlier versions of begin_issuance and save_token had fewer arguments.
drop function if exists public.begin_issuance(text, uuid, text, text, text, interval, bigint, text);
drop function if exists public.save_token(text, text, timestamptz, bigint);
drop function if exists public.save_token(text, text, timestamptz, bigint, bigint);

create or replace function public.begin_issuance(
    service           text,
    holder            uuid,
    label             text,
    app_key_id        text,
    credential_id     text,
    min_remaining     interval,
    rejected_version  bigint default null,
    rejected_token_id text default null,
    keys_version      bigint default null
) returns jsonb
    language plpgsql
    security definer
    set search_path = pg_catalog, pg_temp
as $$
declare
    lease     public.credential_leases;
    other     public.credential_leases;
    token     record;
    known     boolean;      -- whether the lease's token_id and issued_at are those of the current row
    stored_id text;
    rejected  text[];
    retry_at  timestamptz;
    status    text;
    t         timestamptz;
begin
    perform public.issuance_check_service(service);
    if holder is null then
        raise exception 'holder must not be null' using errcode = '22023';
    end if;
    if app_key_id is null or app_key_id !~ '^[0-9a-f]{16}$'
        or credential_id is null or credential_id !~ '^[0-9a-f]{16}$' then
        raise exception 'app_key_id and credential_id must be 16 hex digits' using errcode = '22023';
    end if;
    if rejected_token_id !~ '^[0-9a-f]{16}$' then
        raise exception 'rejected_token_id must be 16 hex digits' using errcode = '22023';
    end if;
    if min_remaining is null or min_remaining < interval '0' then
        raise exception 'min_remaining must not be negative' using errcode = '22023';
    end if;

    -- Callers with the same app key are served one after the other, even if they use different slots.
    perform pg_advisory_xact_lock(hashtextextended('kis-token:' || begin_issuance.app_key_id, 0));
    lease := public.issuance_lock(service);
    select l.* into other from public.credential_leases l
    where l.app_key_id = begin_issuance.app_key_id and l.service_name <> service
    for update;
    t := clock_timestamp();
    token := public.issuance_token_row(service);
    rejected := public.issuance_rejected_ids(service);

    known := token.version is not null and lease.token_version = token.version;
    stored_id := case when known then lease.token_id else public.issuance_plain_token_id(token.credential_value) end;

    if keys_version <> public.issuance_keys_version(service) then
        status := 'changed';
    elsif other.service_name is not null
        and (public.issuance_token_row(other.service_name)).expires_at > t then
        status := 'conflict';
    elsif token.expires_at > t
        and token.version is distinct from rejected_version
        and (stored_id is null or stored_id is distinct from rejected_token_id and stored_id <> all (rejected))
        -- For 6 hours after KIS issues a token, tokenP returns the same token again. If the stored token is younger
        -- than 6 hours, a tokenP call cannot replace it, so the status is "fresh" for every min_remaining.
        and (token.expires_at > t + min_remaining or (known and t - lease.issued_at < interval '6 hours')) then
        status := 'fresh';
    elsif lease.holder = begin_issuance.holder and lease.lease_until > t then
        status := 'granted';
    elsif lease.holder is not null and lease.lease_until > t then
        status := 'busy';
        retry_at := lease.lease_until;
    elsif other.holder is not null and other.lease_until > t then
        status := 'busy';
        retry_at := other.lease_until;
    else
        retry_at := greatest(
            lease.not_before,
            other.not_before,
            case when lease.refused_credential_id = begin_issuance.credential_id then lease.refused_until end
        );
        if retry_at > t then
            status := 'busy';
        else
            perform public.issuance_prove(service);
            status := 'granted';
            -- At this point, no other slot of this app key has a valid token or a lease that has not ended, because
            -- this function has checked both. So the app key moves to this slot.
            update public.credential_leases l set app_key_id = null where l.service_name = other.service_name;
            update public.credential_leases l
            set fence        = l.fence + 1,
                holder       = begin_issuance.holder,
                holder_label = left(begin_issuance.label, 200),
                granted_at   = t,
                lease_until  = t + interval '60 seconds',
                -- The holder calls tokenP within 5 s of the grant. So the next grant is at least 65 s after the tokenP
                -- call, even if the holder's process ends.
                not_before   = t + interval '70 seconds',
                app_key_id   = begin_issuance.app_key_id
            where l.service_name = service
            returning l.* into lease;
            if begin_issuance.rejected_token_id is not null then
                perform public.issuance_reject(
                    service,
                    begin_issuance.rejected_token_id,
                    case when stored_id = begin_issuance.rejected_token_id then token.expires_at end
                );
                lease.rejected_token_id := begin_issuance.rejected_token_id;
                rejected := public.issuance_rejected_ids(service);
            end if;
            perform public.issuance_log(lease, 'granted');
        end if;
    end if;

    return jsonb_build_object(
        'status', status,
        'version', token.version,
        'fence', case when status = 'granted' then lease.fence end,
        'value', case when status = 'fresh' then token.credential_value end,
        'expires_at', token.expires_at,
        'issued_at', case when known then lease.issued_at end,
        'retry_at', case when status = 'busy' then retry_at end,
        'holder_label', case
            when status = 'conflict' then other.service_name
            when status = 'busy' and lease.holder is not null and lease.lease_until > t then lease.holder_label
            when status = 'busy' and other.holder is not null and other.lease_until > t then other.holder_label
        end,
        'last_error', lease.last_error,
        'rejected_token_id', lease.rejected_token_id,
        'rejected_token_ids', to_jsonb(rejected),
        'schema_version', 2,  -- as in 005_check.sql
        'server_now', t
    );
end
$$;

comment on function public.begin_issuance(text, uuid, text, text, text, interval, bigint, text, bigint) is
    'Asks for the lease. keys_version is the version of the app_key row that the caller has read, or 0 if the caller found no app_key row. Returns a status. If the status is "changed", the app_key row has another version than keys_version: read the app_key row again. If the status is "conflict", another slot has a valid token of this app key, and holder_label is the name of the other slot. If the status is "fresh", the stored token can be used: value is this token. If the status is "granted", call tokenP once, then call commit_issuance or abort_issuance with the returned fence. If the status is "busy", wait: the caller holder_label holds the lease, or no lease is granted before retry_at. rejected_token_ids has the hashes of all known rejected tokens: do not use a token with such a hash, even if a cache has the token. rejected_token_id is the hash of the last rejected token, for older clients. If the table cannot store a token, the function raises an error with the detail store-cannot-store.';

create or replace function public.commit_issuance(
    service    text,
    holder     uuid,
    fence      bigint,
    value      text,
    expires_at timestamptz,
    issued_at  timestamptz,
    token_id   text,
    rejected   boolean default false
) returns jsonb
    language plpgsql
    security definer
    set search_path = pg_catalog, pg_temp
as $$
declare
    lease       public.credential_leases;
    token       record;
    stored_id   text;
    is_stored   boolean;
    remembered  boolean;    -- whether the slot remembers the token as rejected
    is_rejected boolean;
    status      text;
    t           timestamptz;
begin
    perform public.issuance_check_service(service);
    if token_id is null or token_id !~ '^[0-9a-f]{16}$' then
        raise exception 'token_id must be 16 hex digits' using errcode = '22023';
    end if;

    lease := public.issuance_lock(service);
    t := clock_timestamp();
    token := public.issuance_token_row(service);
    -- The check includes tokens that are not stored, because no caller may get a rejected token as a new token.
    remembered := commit_issuance.token_id = any (public.issuance_rejected_ids(service));

    if lease.fence = commit_issuance.fence and lease.holder is null and lease.token_id = commit_issuance.token_id then
        status := 'committed';  -- a repeated call: the first answer was lost
    elsif lease.holder is null
        or lease.fence is distinct from commit_issuance.fence
        or lease.holder is distinct from commit_issuance.holder then
        status := 'fenced';
    else
        perform public.issuance_check_token(value, expires_at);
        if issued_at is null or not isfinite(issued_at) or issued_at > t + interval '1 day' then
            raise exception 'issued_at must be a time, at most a day ahead' using errcode = '22023';
        end if;
        stored_id := case
            when lease.token_version = token.version then lease.token_id
            else public.issuance_plain_token_id(token.credential_value)
        end;
        is_stored := stored_id is not distinct from commit_issuance.token_id;
        is_rejected := remembered or rejected and is_stored;
        if is_rejected or is_stored and isfinite(token.expires_at) then
            status := 'unchanged';
        elsif token.updated_at > lease.granted_at and token.expires_at > commit_issuance.expires_at then
            status := 'fenced';  -- a program without a lease has stored a newer token
        else
            status := 'committed';
            token.version := public.issuance_write(service, value, expires_at);
            token := public.issuance_token_row(service);
        end if;

        perform public.issuance_log(lease, status, commit_issuance.token_id);
        update public.credential_leases l
        set holder        = null,
            lease_until   = null,
            not_before    = case
                -- For 6 hours after the issue of a token, KIS gives the same token again.
                when is_rejected
                    then greatest(t + interval '61 seconds', commit_issuance.issued_at + interval '6 hours')
                when status = 'unchanged' then t + interval '61 seconds'
                else greatest(l.not_before, t + interval '61 seconds')
            end,
            token_id      = case when is_stored or status = 'committed' then commit_issuance.token_id else l.token_id end,
            token_version = case when is_stored or status = 'committed' then token.version else l.token_version end,
            issued_at     = case when is_stored or status = 'committed' then commit_issuance.issued_at else l.issued_at end,
            refused_credential_id = null,
            refused_until = null,
            last_error    = case when is_rejected then 'token-repeated' end
        where l.service_name = service;
    end if;

    return jsonb_build_object(
        'status', status,
        'version', token.version,
        'value', case when status = 'fenced' then token.credential_value end,
        'expires_at', token.expires_at,
        'rejected', remembered,
        'server_now', t
    );
end
$$;

comment on function public.commit_issuance(text, uuid, bigint, text, timestamptz, timestamptz, text, boolean) is
    'Stores the token that tokenP gave, and ends the lease. If the KIS API rejected the stored token, the caller sets the argument "rejected" to true. Returns a status. If the status is "committed", this call, or an earlier call with the same arguments, stored the token. If the status is "unchanged", KIS gave the stored token or a known rejected token again, and the function does not write the token. If the status is "fenced", the function does not store the token, because the lease belongs to another caller or because a newer token is stored. With this status, the member "value" of the answer is the stored token. If the token is known to be rejected, the answer has the value true for "rejected".';

create or replace function public.abort_issuance(
    service               text,
    holder                uuid,
    fence                 bigint,
    cooldown              interval,
    error_code            text,
    refused_credential_id text default null
) returns jsonb
    language plpgsql
    security definer
    set search_path = pg_catalog, pg_temp
as $$
declare
    lease  public.credential_leases;
    status text := 'fenced';
    t      timestamptz;
begin
    perform public.issuance_check_service(service);
    if cooldown is null or cooldown < interval '0' or cooldown > interval '1 hour' then
        raise exception 'cooldown must be between 0 and 1 hour' using errcode = '22023';
    end if;

    lease := public.issuance_lock(service);
    t := clock_timestamp();

    if lease.fence = abort_issuance.fence and lease.holder = abort_issuance.holder then
        status := 'aborted';
        perform public.issuance_log(lease, status, null, left(error_code, 100));
        update public.credential_leases l
        set holder      = null,
            lease_until = null,
            not_before  = t + cooldown,
            last_error  = left(error_code, 100),
            refused_credential_id = coalesce(abort_issuance.refused_credential_id, l.refused_credential_id),
            refused_until = case
                when abort_issuance.refused_credential_id is not null then t + interval '15 minutes'
                else l.refused_until
            end
        where l.service_name = service;
    end if;

    return jsonb_build_object('status', status, 'server_now', t);
end
$$;

comment on function public.abort_issuance(text, uuid, bigint, interval, text, text) is
    'Ends the lease without a token. cooldown is the time until the next grant. refused_credential_id is the hash of the key and secret that KIS refused. For 15 minutes, no caller gets the lease with this key and secret. Returns a status: "aborted", or "fenced" if the lease belongs to another caller.';

create or replace function public.save_token(
    service          text,
    value            text,
    expires_at       timestamptz,
    replaces_version bigint default null,
    keys_version     bigint default null,
    token_id         text default null
) returns jsonb
    language plpgsql
    security definer
    set search_path = pg_catalog, pg_temp
as $$
declare
    lease  public.credential_leases;
    token  record;
    own_id text;
    status text := 'kept';
begin
    perform public.issuance_check_service(service);
    perform public.issuance_check_token(value, expires_at);
    if token_id !~ '^[0-9a-f]{16}$' then
        raise exception 'token_id must be 16 hex digits' using errcode = '22023';
    end if;
    own_id := coalesce(public.issuance_plain_token_id(value), save_token.token_id);

    lease := public.issuance_lock(service);
    token := public.issuance_token_row(service);

    if own_id = any (public.issuance_rejected_ids(service)) then
        status := 'rejected';
    elsif keys_version is distinct from public.issuance_keys_version(service) and keys_version is not null then
        null;  -- the slot's keys have changed since the token was issued
    elsif token.version is null
        or token.version = replaces_version
        or token.expires_at is null
        or save_token.expires_at > token.expires_at then
        status := 'saved';
        token.version := public.issuance_write(service, value, save_token.expires_at);
        perform public.issuance_log(lease, status, own_id);
    end if;

    return jsonb_build_object('status', status, 'version', token.version, 'server_now', clock_timestamp());
end
$$;

comment on function public.save_token(text, text, timestamptz, bigint, bigint, text) is
    'Stores a token that was issued without a lease. The token is stored if the slot has no active token, if the token expires later than the stored token, or if the stored row has the version replaces_version. If the app_key row does not have the version keys_version, the token is not stored. token_id is needed only if value is sealed. Returns a status: "saved", "kept" (the function has not stored the token), or "rejected" (the token is known to be rejected, and the function has not stored it).';

create or replace function public.revoke_token(service text, version bigint, token_id text, label text)
    returns jsonb
    language plpgsql
    security definer
    set search_path = pg_catalog, pg_temp
as $$
declare
    lease public.credential_leases;
    token record;
    done  boolean;
begin
    perform public.issuance_check_service(service);
    if token_id is null or token_id !~ '^[0-9a-f]{16}$' then
        raise exception 'token_id must be 16 hex digits' using errcode = '22023';
    end if;

    lease := public.issuance_lock(service);
    token := public.issuance_token_row(service);
    perform public.issuance_reject(
        service, revoke_token.token_id, case when token.version = revoke_token.version then token.expires_at end
    );
    update public.api_credentials c
    set is_active = false
    where c.service_name = service and c.credential_type = 'access_token' and c.is_active
      and c.version = revoke_token.version;
    done := found;
    lease.holder_label := left(label, 200);
    perform public.issuance_log(lease, 'revoked', token_id);

    return jsonb_build_object('status', case when done then 'revoked' else 'kept' end,
                              'server_now', clock_timestamp());
end
$$;

comment on function public.revoke_token(text, bigint, text, text) is
    'Makes the row of a token that was revoked at KIS inactive. Remembers the token as rejected, so that it is not stored again. Returns a status: "revoked", or "kept" if the active token''s row does not have the given version.';

-- Returns all data of kis-token status in one call. The member "rows" of the answer lists the rows of keys and tokens,
-- without their values. If the argument token_of names a slot, the member "token_rows" of the answer has the slot's row
-- of the token and the slot's row of the rejected tokens, and includes the values of both rows. The client unseals the
-- value of the token's row.
drop function if exists public.issuance_status(text, integer);
create or replace function public.issuance_status(
    service  text default null,
    log_rows integer default 10,
    token_of text default null
) returns jsonb
    language plpgsql
    stable
    security definer
    set search_path = pg_catalog, pg_temp
    -- The settings plan_cache_mode and enable_sort prevent PostgreSQL from reading all of a long log. With the default
    -- of plan_cache_mode, a generic plan may read the events of all slots. If enable_sort is on and the table has no
    -- statistics, a plan may sort all events of the slot.
    set plan_cache_mode = 'force_custom_plan'
    set enable_sort = off
as $$
begin
    return jsonb_build_object(
        'server_now', clock_timestamp(),
        'leases', coalesce((
            select jsonb_agg(to_jsonb(l) - 'holder' order by l.service_name) from public.credential_leases l
            where issuance_status.service is null or l.service_name = issuance_status.service), '[]'),
        'issuances', coalesce((
            select jsonb_agg(to_jsonb(i) - 'holder' order by i.id desc) from (
                select * from public.credential_issuances e
                where issuance_status.service is null or e.service_name = issuance_status.service
                order by e.id desc limit least(greatest(log_rows, 0), 1000)) i), '[]'),
        'rows', coalesce((
            select jsonb_agg(jsonb_build_object(
                'service_name', c.service_name, 'credential_type', c.credential_type, 'expires_at', c.expires_at,
                'is_active', c.is_active, 'environment', c.environment, 'version', c.version
            ) order by c.service_name, c.credential_type)
            from public.api_credentials c
            where (issuance_status.service is null or c.service_name = issuance_status.service)
              and c.credential_type in ('app_key', 'app_secret', 'access_token')
              and c.credential_value is not null), '[]'),
        'token_rows', coalesce((
            select jsonb_agg(jsonb_build_object(
                'credential_type', c.credential_type, 'credential_value', c.credential_value,
                'expires_at', c.expires_at, 'version', c.version))
            from public.api_credentials c
            where c.service_name = issuance_status.token_of
              and c.credential_type in ('access_token', 'rejected_tokens') and c.is_active), '[]'),
        'schema_version', 2  -- as in 005_check.sql
    );
end
$$;

comment on function public.issuance_status(text, integer, text) is
    'Returns, for one slot or for all slots, the leases, the last events (newest first), and the rows of keys and tokens without their values. The member "token_rows" has the active rows access_token and rejected_tokens of the slot that the argument token_of names, and includes the values of both rows. Holder ids are not returned, because a caller with such an id could act as the holder.';

create or replace function public.prune_issuances(keep interval default interval '90 days') returns bigint
    language plpgsql
    security definer
    set search_path = pg_catalog, pg_temp
as $$
declare
    oldest timestamptz;
    pruned bigint;
begin
    if keep is null or keep < interval '0' then
        raise exception 'keep must not be negative' using errcode = '22023';
    end if;
    oldest := clock_timestamp() - keep;  -- in the condition, clock_timestamp() would be evaluated for each row, without the index
    delete from public.credential_issuances e where e.happened_at < oldest;
    get diagnostics pruned = row_count;
    return pruned;
end
$$;

comment on function public.prune_issuances(interval) is 'Deletes the events that are older than keep. Returns the number of deleted events.';

-- Earlier versions of this file remembered only the last rejected token of a slot, in the lease. Copy this token to the
-- row rejected_tokens.
do $$
declare
    lease public.credential_leases;
begin
    for lease in
        select l.* from public.credential_leases l
        where l.rejected_token_id ~ '^[0-9a-f]{16}$' and not exists (
            select from public.api_credentials c
            where c.service_name = l.service_name and c.credential_type = 'rejected_tokens'
        )
        for update
    loop
        perform public.issuance_reject(lease.service_name, lease.rejected_token_id, null);
    end loop;
end
$$;

-- Access -----------------------------------------------------------------------------------------------------------

alter table public.credential_leases enable row level security;
alter table public.credential_issuances enable row level security;

-- If a table has row level security and no policy, PostgreSQL denies all access. The policies credential_leases_nobody
-- and credential_issuances_nobody also deny all access. They show a reader of the schema that the denial is intended.
drop policy if exists credential_leases_nobody on public.credential_leases;
create policy credential_leases_nobody on public.credential_leases for all to public using (false) with check (false);
drop policy if exists credential_issuances_nobody on public.credential_issuances;
create policy credential_issuances_nobody on public.credential_issuances
    for all to public using (false) with check (false);

revoke all on table public.credential_leases, public.credential_issuances
    from public, anon, authenticated, service_role;
revoke all on sequence public.credential_issuances_id_seq from public, anon, authenticated, service_role;

-- Each function is named with its arguments, because a project may have other functions with the same name.
revoke all on function
    public.issuance_plain_token_id(text),
    public.issuance_check_service(text),
    public.issuance_check_token(text, timestamptz),
    public.issuance_lock(text),
    public.issuance_log(public.credential_leases, text, text, text),
    public.issuance_token_row(text),
    public.issuance_keys_version(text),
    public.issuance_raise_unwritten(text, text, text, text, text),
    public.issuance_put(text, text, text, timestamptz, text),
    public.issuance_write(text, text, timestamptz),
    public.issuance_prove(text),
    public.issuance_rejected(text),
    public.issuance_rejected_ids(text),
    public.issuance_reject(text, text, timestamptz),
    public.begin_issuance(text, uuid, text, text, text, interval, bigint, text, bigint),
    public.commit_issuance(text, uuid, bigint, text, timestamptz, timestamptz, text, boolean),
    public.abort_issuance(text, uuid, bigint, interval, text, text),
    public.save_token(text, text, timestamptz, bigint, bigint, text),
    public.revoke_token(text, bigint, text, text),
    public.issuance_status(text, integer, text),
    public.prune_issuances(interval)
from public, anon, authenticated, service_role;

grant execute on function
    public.begin_issuance(text, uuid, text, text, text, interval, bigint, text, bigint),
    public.commit_issuance(text, uuid, bigint, text, timestamptz, timestamptz, text, boolean),
    public.abort_issuance(text, uuid, bigint, interval, text, text),
    public.save_token(text, text, timestamptz, bigint, bigint, text),
    public.revoke_token(text, bigint, text, text),
    public.issuance_status(text, integer, text),
    public.prune_issuances(interval)
to service_role;

notify pgrst, 'reload schema';

commit;
