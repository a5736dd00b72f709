-- The tables and functions of version 1.0.0, without comments, which an older project has before the current files run.

begin;
create table if not exists public.api_credentials (
    id               bigserial primary key,
    service_name     text not null,
    credential_type  text not null,
    credential_value text not null,
    expires_at       timestamptz,
    is_active        boolean default true,
    environment      text default 'production',
    description      text,
    updated_at       timestamptz default now(),
    created_at       timestamptz default now(),
    unique (service_name, credential_type)
);
do $$
declare
    twice text;
begin
    if not exists (
        select from pg_catalog.pg_index i
        where i.indrelid = 'public.api_credentials'::regclass and i.indisunique and i.indpred is null
          and i.indnkeyatts = 2
          and (select array_agg(a.attname::text order by a.attname) from pg_catalog.pg_attribute a
               where a.attrelid = i.indrelid and a.attnum = any (i.indkey)) = array['credential_type', 'service_name']
    ) then
        create unique index idx_api_cred_service_type on public.api_credentials (service_name, credential_type);
    end if;
exception
    when unique_violation then
        get stacked diagnostics twice = pg_exception_detail;
        raise exception 'api_credentials holds a credential twice'
            using errcode = '23505', detail = twice,
            hint = 'Delete all but the newest row of that service_name and credential_type, then run this file again.';
end
$$;
create index if not exists idx_api_cred_service_active on public.api_credentials (service_name, is_active);
create index if not exists idx_api_cred_expires on public.api_credentials (expires_at);
create sequence if not exists public.api_credentials_version_seq as bigint;
alter table public.api_credentials
    add column if not exists version bigint not null default nextval('public.api_credentials_version_seq');
alter sequence public.api_credentials_version_seq owned by public.api_credentials.version;
create or replace function public.api_credentials_touch() returns trigger
    language plpgsql
    set search_path = ''
as $$
begin
    if tg_op = 'UPDATE' and (new.credential_value, new.expires_at, new.is_active)
        is not distinct from (old.credential_value, old.expires_at, old.is_active) then
        new.version := old.version;
        new.updated_at := old.updated_at;
    else
        new.version := nextval('public.api_credentials_version_seq');
        new.updated_at := clock_timestamp();
    end if;
    return new;
end
$$;
create or replace trigger api_credentials_touch
    before insert or update on public.api_credentials
    for each row execute function public.api_credentials_touch();
alter table public.api_credentials enable row level security;
revoke all on table public.api_credentials from public, anon, authenticated, service_role;
revoke all on sequence public.api_credentials_version_seq from public, anon, authenticated;
revoke all on function public.api_credentials_touch() from public, anon, authenticated, service_role;
grant usage on schema public to service_role;
grant select, insert, update, delete on table public.api_credentials to service_role;
grant usage on sequence public.api_credentials_version_seq to service_role;
do $$
declare
    id_sequence text := pg_get_serial_sequence('public.api_credentials', 'id');
begin
    if id_sequence is not null then
        execute format('revoke all on sequence %s from public, anon, authenticated', id_sequence);
        execute format('grant usage on sequence %s to service_role', id_sequence);
    end if;
end
$$;
drop policy if exists api_credentials_service_role on public.api_credentials;
create policy api_credentials_service_role on public.api_credentials
    for all to service_role using (true) with check (true);
notify pgrst, 'reload schema';
commit;

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
create or replace function public.issuance_plain_token_id(value text) returns text
    language plpgsql
    immutable
    set search_path = ''
as $$
begin
    if jsonb_typeof(value::jsonb -> 'access_token') <> 'string' then
        return null;
    end if;
    return left(encode(sha256(convert_to(nullif(value::jsonb ->> 'access_token', ''), 'UTF8')), 'hex'), 16);
exception
    when data_exception then
        return null;
end
$$;
create or replace function public.issuance_check_service(service text) returns void
    language plpgsql
    immutable
    set search_path = ''
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
    set search_path = ''
as $$
begin
    if value is null
        or length(value) > 65536
        or not (value ~ '^enc:v1:[^:]+:[A-Za-z0-9_=-]+$' or public.issuance_plain_token_id(value) is not null) then
        raise exception 'not a token'
            using errcode = '22023', hint = 'A JSON string with a member access_token, or an enc:v1: envelope.';
    end if;
    if expires_at is null or not isfinite(expires_at) or expires_at <= clock_timestamp() then
        raise exception 'the token has expired, or never does' using errcode = '22023';
    end if;
end
$$;
create or replace function public.issuance_lock(service text) returns public.credential_leases
    language plpgsql
    set search_path = ''
as $$
declare
    lease public.credential_leases;
begin
    insert into public.credential_leases (service_name) values (service) on conflict do nothing;
    select l.* into strict lease from public.credential_leases l where l.service_name = service for update;
    return lease;
end
$$;
create or replace function public.issuance_log(
    lease public.credential_leases, outcome text, token_id text default null, error_code text default null
) returns void
    language sql
    set search_path = ''
as $$
    insert into public.credential_issuances
        (service_name, happened_at, outcome, fence, holder, holder_label, app_key_id, token_id, error_code)
    values
        (lease.service_name, clock_timestamp(), outcome, lease.fence, lease.holder, lease.holder_label,
         lease.app_key_id, token_id, error_code);
$$;
create or replace function public.issuance_token_row(service text) returns public.api_credentials
    language sql
    stable
    set search_path = ''
as $$
    select c.* from public.api_credentials c
    where c.service_name = service and c.credential_type = 'access_token' and c.is_active;
$$;
create or replace function public.issuance_keys_version(service text) returns bigint
    language sql
    stable
    set search_path = ''
as $$
    select coalesce(max(c.version), 0) from public.api_credentials c
    where c.service_name = service and c.credential_type = 'app_key' and c.is_active;
$$;
create or replace function public.issuance_write(service text, value text, expires_at timestamptz) returns bigint
    language sql
    set search_path = ''
as $$
    insert into public.api_credentials as c
        (service_name, credential_type, credential_value, expires_at, is_active, environment, description)
    values
        (service, 'access_token', value, issuance_write.expires_at, true,
         coalesce((select k.environment from public.api_credentials k
                   where k.service_name = service and k.credential_type = 'app_key'),
                  case when service = 'kis-paper' then 'paper' else 'production' end),
         'KIS OAuth access token, renewed automatically')
    on conflict (service_name, credential_type) do update
        set credential_value = excluded.credential_value, expires_at = excluded.expires_at, is_active = true
    returning c.version;
$$;
drop function if exists public.begin_issuance(text, uuid, text, text, text, interval, bigint, text);
drop function if exists public.save_token(text, text, timestamptz, bigint);
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
    set search_path = ''
as $$
declare
    lease     public.credential_leases;
    other     public.credential_leases;
    token     public.api_credentials;
    known     boolean;    
    stored_id text;
    retry_at  timestamptz;
    status    text;
    t         timestamptz;
begin
    perform public.issuance_check_service(service);
    if holder is null then
        raise exception 'a holder is needed' using errcode = '22023';
    end if;
    if app_key_id is null or app_key_id !~ '^[0-9a-f]{16}$'
        or credential_id is null or credential_id !~ '^[0-9a-f]{16}$' then
        raise exception 'app_key_id and credential_id are 16 hex digits' using errcode = '22023';
    end if;
    if min_remaining is null or min_remaining < interval '0' then
        raise exception 'min_remaining is not negative' using errcode = '22023';
    end if;
    perform pg_advisory_xact_lock(hashtextextended('kis-token:' || begin_issuance.app_key_id, 0));
    lease := public.issuance_lock(service);
    select l.* into other from public.credential_leases l
    where l.app_key_id = begin_issuance.app_key_id and l.service_name <> service
    for update;
    t := clock_timestamp();
    token := public.issuance_token_row(service);
    known := token.version is not null and lease.token_version = token.version;
    stored_id := case when known then lease.token_id else public.issuance_plain_token_id(token.credential_value) end;
    if keys_version <> public.issuance_keys_version(service) then
        status := 'changed';
    elsif other.service_name is not null
        and (public.issuance_token_row(other.service_name)).expires_at > t then
        status := 'conflict';
    elsif token.expires_at > t
        and token.version is distinct from rejected_version
        and (stored_id is null or stored_id is distinct from rejected_token_id)
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
            status := 'granted';
            update public.credential_leases l set app_key_id = null where l.service_name = other.service_name;
            update public.credential_leases l
            set fence        = l.fence + 1,
                holder       = begin_issuance.holder,
                holder_label = left(begin_issuance.label, 200),
                granted_at   = t,
                lease_until  = t + interval '60 seconds',
                not_before   = t + interval '70 seconds',
                app_key_id   = begin_issuance.app_key_id,
                rejected_token_id = coalesce(begin_issuance.rejected_token_id, l.rejected_token_id)
            where l.service_name = service
            returning l.* into lease;
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
        'server_now', t
    );
end
$$;
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
    set search_path = ''
as $$
declare
    lease       public.credential_leases;
    token       public.api_credentials;
    stored_id   text;
    is_stored   boolean;
    is_rejected boolean;
    status      text;
    t           timestamptz;
begin
    perform public.issuance_check_service(service);
    if token_id is null or token_id !~ '^[0-9a-f]{16}$' then
        raise exception 'token_id is 16 hex digits' using errcode = '22023';
    end if;
    lease := public.issuance_lock(service);
    t := clock_timestamp();
    token := public.issuance_token_row(service);
    if lease.fence = commit_issuance.fence and lease.holder is null and lease.token_id = commit_issuance.token_id then
        status := 'committed';
    elsif lease.holder is null
        or lease.fence is distinct from commit_issuance.fence
        or lease.holder is distinct from commit_issuance.holder then
        status := 'fenced';
    else
        perform public.issuance_check_token(value, expires_at);
        if issued_at is null or not isfinite(issued_at) or issued_at > t + interval '1 day' then
            raise exception 'issued_at makes no sense' using errcode = '22023';
        end if;
        stored_id := case
            when lease.token_version = token.version then lease.token_id
            else public.issuance_plain_token_id(token.credential_value)
        end;
        is_stored := stored_id is not distinct from commit_issuance.token_id;
        is_rejected := rejected and is_stored or lease.rejected_token_id is not distinct from commit_issuance.token_id;
        if is_rejected or is_stored and isfinite(token.expires_at) then
            status := 'unchanged';
        elsif token.updated_at > lease.granted_at and token.expires_at > commit_issuance.expires_at then
            status := 'fenced';
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
        'server_now', t
    );
end
$$;
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
    set search_path = ''
as $$
declare
    lease  public.credential_leases;
    status text := 'fenced';
    t      timestamptz;
begin
    perform public.issuance_check_service(service);
    if cooldown is null or cooldown < interval '0' or cooldown > interval '1 hour' then
        raise exception 'cooldown is between 0 and 1 hour' using errcode = '22023';
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
create or replace function public.save_token(
    service          text,
    value            text,
    expires_at       timestamptz,
    replaces_version bigint default null,
    keys_version     bigint default null
) returns jsonb
    language plpgsql
    security definer
    set search_path = ''
as $$
declare
    lease  public.credential_leases;
    token  public.api_credentials;
    status text := 'kept';
begin
    perform public.issuance_check_service(service);
    perform public.issuance_check_token(value, expires_at);
    lease := public.issuance_lock(service);
    token := public.issuance_token_row(service);
    if keys_version is distinct from public.issuance_keys_version(service) and keys_version is not null then
        null;
    elsif token.version is null
        or token.version = replaces_version
        or token.expires_at is null
        or save_token.expires_at > token.expires_at then
        status := 'saved';
        token.version := public.issuance_write(service, value, save_token.expires_at);
        perform public.issuance_log(lease, status, public.issuance_plain_token_id(value));
    end if;
    return jsonb_build_object('status', status, 'version', token.version, 'server_now', clock_timestamp());
end
$$;
create or replace function public.revoke_token(service text, version bigint, token_id text, label text)
    returns jsonb
    language plpgsql
    security definer
    set search_path = ''
as $$
declare
    lease public.credential_leases;
    done  boolean;
begin
    perform public.issuance_check_service(service);
    if token_id is null or token_id !~ '^[0-9a-f]{16}$' then
        raise exception 'token_id is 16 hex digits' using errcode = '22023';
    end if;
    lease := public.issuance_lock(service);
    update public.credential_leases l set rejected_token_id = revoke_token.token_id where l.service_name = service;
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
create or replace function public.issuance_status(service text default null, log_rows integer default 10) returns jsonb
    language plpgsql
    stable
    security definer
    set search_path = ''
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
                order by e.id desc limit least(greatest(log_rows, 0), 1000)) i), '[]')
    );
end
$$;
create or replace function public.prune_issuances(keep interval default interval '90 days') returns bigint
    language plpgsql
    security definer
    set search_path = ''
as $$
declare
    oldest timestamptz;
    pruned bigint;
begin
    if keep is null or keep < interval '0' then
        raise exception 'keep is not negative' using errcode = '22023';
    end if;
    oldest := clock_timestamp() - keep;
    delete from public.credential_issuances e where e.happened_at < oldest;
    get diagnostics pruned = row_count;
    return pruned;
end
$$;
alter table public.credential_leases enable row level security;
alter table public.credential_issuances enable row level security;
drop policy if exists credential_leases_nobody on public.credential_leases;
create policy credential_leases_nobody on public.credential_leases for all to public using (false) with check (false);
drop policy if exists credential_issuances_nobody on public.credential_issuances;
create policy credential_issuances_nobody on public.credential_issuances
    for all to public using (false) with check (false);
revoke all on table public.credential_leases, public.credential_issuances
    from public, anon, authenticated, service_role;
revoke all on sequence public.credential_issuances_id_seq from public, anon, authenticated, service_role;
do $$
declare
    signature regprocedure;
begin
    for signature in
        select p.oid::regprocedure from pg_proc p
        where p.pronamespace = 'public'::regnamespace
          and (p.proname like 'issuance\_%'
               or p.proname in ('begin_issuance', 'commit_issuance', 'abort_issuance', 'save_token', 'revoke_token',
                                'prune_issuances'))
    loop
        execute format('revoke all on function %s from public, anon, authenticated, service_role', signature);
    end loop;
end
$$;
grant execute on function
    public.begin_issuance(text, uuid, text, text, text, interval, bigint, text, bigint),
    public.commit_issuance(text, uuid, bigint, text, timestamptz, timestamptz, text, boolean),
    public.abort_issuance(text, uuid, bigint, interval, text, text),
    public.save_token(text, text, timestamptz, bigint, bigint),
    public.revoke_token(text, bigint, text, text),
    public.issuance_status(text, integer),
    public.prune_issuances(interval)
to service_role;
notify pgrst, 'reload schema';
commit;

begin;
create or replace function public.set_app_key(
    service     text,
    app_key     text,
    app_secret  text,
    environment text,
    keeps_token boolean
) returns jsonb
    language plpgsql
    security definer
    set search_path = ''
as $$
declare
    lease  public.credential_leases;
    ended  bigint;
begin
    perform public.issuance_check_service(service);
    if coalesce(length(app_key), 0) not between 1 and 8192 or coalesce(length(app_secret), 0) not between 1 and 8192 then
        raise exception 'app_key and app_secret are needed, of 8192 characters at the most' using errcode = '22023';
    end if;
    if environment is null or environment not in ('production', 'paper') then
        raise exception 'environment is production or paper' using errcode = '22023';
    end if;
    if keeps_token is null then
        raise exception 'keeps_token is true or false' using errcode = '22023';
    end if;
    lease := public.issuance_lock(service);
    insert into public.api_credentials as c
        (service_name, credential_type, credential_value, is_active, environment, description)
    values
        (service, 'app_key', set_app_key.app_key, true, set_app_key.environment, 'KIS app key'),
        (service, 'app_secret', set_app_key.app_secret, true, set_app_key.environment, 'KIS app secret')
    on conflict (service_name, credential_type) do update
        set credential_value = excluded.credential_value, is_active = true, environment = excluded.environment;
    if not keeps_token then
        update public.api_credentials c set is_active = false
        where c.service_name = service and c.credential_type = 'access_token' and c.is_active;
        get diagnostics ended = row_count;
        if lease.holder is not null then
            perform public.issuance_log(lease, 'aborted', null, 'app-key-changed');
        end if;
        update public.credential_leases l
        set fence = l.fence + 1, holder = null, lease_until = null, app_key_id = null
        where l.service_name = service;
    end if;
    return jsonb_build_object(
        'status', case when ended > 0 then 'token-ended' else 'stored' end, 'server_now', clock_timestamp()
    );
end
$$;
create or replace function public.reseal(
    service          text,
    credential_type  text,
    value            text,
    replaces_version bigint
) returns jsonb
    language plpgsql
    security definer
    set search_path = ''
as $$
declare
    lease       public.credential_leases;
    new_version bigint;
begin
    perform public.issuance_check_service(service);
    if value is null or length(value) > 65536 or value !~ '^enc:v1:[^:]+:[A-Za-z0-9_=-]+$' then
        raise exception 'not an enc:v1: envelope' using errcode = '22023';
    end if;
    lease := public.issuance_lock(service);
    update public.api_credentials c set credential_value = reseal.value
    where c.service_name = service and c.credential_type = reseal.credential_type and c.version = replaces_version
    returning c.version into new_version;
    if new_version is not null and reseal.credential_type = 'access_token' then
        update public.credential_leases l set token_version = new_version
        where l.service_name = service and l.token_version = replaces_version;
    end if;
    return jsonb_build_object(
        'status', case when new_version is null then 'changed' else 'sealed' end,
        'version', new_version,
        'server_now', clock_timestamp()
    );
end
$$;
revoke all on function public.set_app_key(text, text, text, text, boolean), public.reseal(text, text, text, bigint)
    from public, anon, authenticated, service_role;
grant execute on function
    public.set_app_key(text, text, text, text, boolean), public.reseal(text, text, text, bigint)
to service_role;
notify pgrst, 'reload schema';
commit;

begin;
do $$
begin
    if not exists (select from pg_catalog.pg_roles where rolname = 'kis_token_reader') then
        create role kis_token_reader nologin noinherit;
        if exists (select from pg_catalog.pg_roles where rolname = 'authenticator') then
            grant kis_token_reader to authenticator;
        end if;
    end if;
    if exists (select from pg_catalog.pg_roles where rolname = 'kis_token_reader' and (rolsuper or rolbypassrls)) then
        raise exception 'the role kis_token_reader passes row level security'
            using hint = 'Make it an ordinary one: alter role kis_token_reader nosuperuser nobypassrls.';
    end if;
    revoke all on all tables in schema public from kis_token_reader;
    revoke all on all sequences in schema public from kis_token_reader;
    revoke all on all functions in schema public from kis_token_reader;
    grant usage on schema public to kis_token_reader;
    grant select (service_name, credential_type, credential_value, expires_at, is_active, version)
        on table public.api_credentials to kis_token_reader;
    drop policy if exists api_credentials_token_reader on public.api_credentials;
    create policy api_credentials_token_reader on public.api_credentials
        for select to kis_token_reader using (credential_type = 'access_token' and is_active);
    drop policy if exists api_credentials_token_reader_only on public.api_credentials;
    create policy api_credentials_token_reader_only on public.api_credentials
        as restrictive for all to kis_token_reader using (credential_type = 'access_token' and is_active);
exception
    when insufficient_privilege then
        raise warning 'there is no role kis_token_reader: %', sqlerrm;
end
$$;
notify pgrst, 'reload schema';
commit;

begin;
create or replace function public.check_setup() returns jsonb
    language sql
    stable
    set search_path = ''
as $$
    with
    tables (name) as (
        values ('api_credentials'), ('credential_leases'), ('credential_issuances')
    ),
    columns (name) as (
        values
            ('id'), ('service_name'), ('credential_type'), ('credential_value'), ('expires_at'), ('is_active'),
            ('environment'), ('description'), ('updated_at'), ('created_at'), ('version')
    ),
    entries (name, arguments) as (
        values
            ('begin_issuance', 'text, uuid, text, text, text, interval, bigint, text, bigint'),
            ('commit_issuance', 'text, uuid, bigint, text, timestamptz, timestamptz, text, boolean'),
            ('abort_issuance', 'text, uuid, bigint, interval, text, text'),
            ('save_token', 'text, text, timestamptz, bigint, bigint'),
            ('revoke_token', 'text, bigint, text, text'),
            ('issuance_status', 'text, integer'),
            ('prune_issuances', 'interval'),
            ('set_app_key', 'text, text, text, text, boolean'),
            ('reseal', 'text, text, text, bigint')
    ),
    policies (table_name, name) as (
        values
            ('api_credentials', 'api_credentials_service_role'),
            ('credential_leases', 'credential_leases_nobody'),
            ('credential_issuances', 'credential_issuances_nobody')
    ),
    found_tables as (
        select t.name, c.oid, c.relrowsecurity
        from tables t
        join pg_catalog.pg_class c on c.relname = t.name and c.relnamespace = 'public'::regnamespace
    ),
    functions as (
        select p.oid, p.proname as name, p.prosecdef, e.name is not null as is_entry
        from pg_catalog.pg_proc p
        left join entries e on p.oid = to_regprocedure(format('public.%I(%s)', e.name, e.arguments))
        where p.pronamespace = 'public'::regnamespace
          and (p.proname like 'issuance\_%' or p.proname in (select name from entries))
    ),
    roles as (
        select r.oid, r.rolname as name, r.rolname = 'service_role' as is_service
        from pg_catalog.pg_roles r
        where r.rolname in ('anon', 'authenticated', 'service_role', 'kis_token_reader')
    ),
    rights (name) as (
        values ('select'), ('insert'), ('update'), ('delete'), ('truncate'), ('references'), ('trigger')
    ),
    loose as (
        select r.name as role_name, t.name as table_name, g.name as right_name
        from roles r cross join found_tables t cross join rights g
        where case
            when r.is_service and t.name = 'api_credentials' then false
            when has_table_privilege(r.oid, t.oid, g.name) then true
            when g.name not in ('select', 'insert', 'update', 'references') then false
            when r.name = 'kis_token_reader' and t.name = 'api_credentials' and g.name = 'select'
                then has_column_privilege(r.oid, t.oid, 'id', 'select')
            else has_any_column_privilege(r.oid, t.oid, g.name)
        end
    ),
    faults (what, said) as (
        select 'tables', 'there is no table ' || t.name
        from tables t where t.name not in (select name from found_tables)
        union all
        select 'tables', 'api_credentials has no column ' || n.name
        from columns n join found_tables t on t.name = 'api_credentials'
        where not exists (
            select from pg_catalog.pg_attribute a
            where a.attrelid = t.oid and a.attname = n.name and not a.attisdropped
        )
        union all
        select 'tables', 'there is no function ' || e.name
        from entries e where to_regprocedure(format('public.%I(%s)', e.name, e.arguments)) is null
        union all
        select 'tables', format('the function %s does not run as its owner', f.name)
        from functions f where f.is_entry and not f.prosecdef
        union all
        select 'tables', 'api_credentials may hold a credential twice: no unique index is valid'
        from found_tables t
        where t.name = 'api_credentials' and not exists (
            select from pg_catalog.pg_index i
            where i.indrelid = t.oid and i.indisunique and i.indisvalid and i.indpred is null and i.indnkeyatts = 2
              and (select array_agg(a.attname::text order by a.attname) from pg_catalog.pg_attribute a
                   where a.attrelid = i.indrelid and a.attnum = any (i.indkey))
                  = array['credential_type', 'service_name']
        )
        union all
        select 'tables', 'the trigger that keeps versions and times of api_credentials is missing or turned off'
        from found_tables t
        where t.name = 'api_credentials' and not exists (
            select from pg_catalog.pg_trigger g
            where g.tgrelid = t.oid and g.tgname = 'api_credentials_touch' and g.tgenabled in ('O', 'A')
        )
        union all
        select 'grants', format('service_role may not %s %s', g.name, t.name)
        from roles r cross join found_tables t cross join rights g
        where r.is_service and t.name = 'api_credentials' and g.name in ('select', 'insert', 'update', 'delete')
          and not has_table_privilege(r.oid, t.oid, g.name)
        union all
        select 'grants', format('service_role may not call %s', f.name)
        from roles r cross join functions f
        where r.is_service and f.is_entry and not has_function_privilege(r.oid, f.oid, 'execute')
        union all
        select 'grants', format('%s may %s %s', l.role_name, string_agg(l.right_name, ', ' order by l.right_name), l.table_name)
        from loose l group by l.role_name, l.table_name
        union all
        select 'grants', format('%s may call %s', r.name, f.name)
        from roles r cross join functions f
        where not (r.is_service and f.is_entry) and has_function_privilege(r.oid, f.oid, 'execute')
        union all
        select 'row level security', 'it is off on ' || t.name
        from found_tables t where not t.relrowsecurity
        union all
        select 'row level security', format('%s lacks the policy %s', p.table_name, p.name)
        from policies p join found_tables t on t.name = p.table_name
        where not exists (
            select from pg_catalog.pg_policy y where y.polrelid = t.oid and y.polname = p.name
        )
        union all
        select 'row level security', format('api_credentials lacks the policy %s', p.name)
        from (values ('api_credentials_token_reader'), ('api_credentials_token_reader_only')) p (name)
        join found_tables t on t.name = 'api_credentials'
        where exists (select from roles r where r.name = 'kis_token_reader')
          and not exists (select from pg_catalog.pg_policy y where y.polrelid = t.oid and y.polname = p.name)
    )
    select coalesce(jsonb_agg(jsonb_build_object('what', f.what, 'said', f.said) order by f.what, f.said), '[]')
    from faults f;
$$;
revoke all on function public.check_setup() from public, anon, authenticated, service_role;
do $$
begin
    if exists (select from pg_catalog.pg_roles where rolname = 'kis_token_reader') then
        revoke all on function public.check_setup() from kis_token_reader;
    end if;
end
$$;
grant execute on function public.check_setup() to service_role;
notify pgrst, 'reload schema';
commit;
