-- Change an account's keys, and seal stored values.
--
-- set_app_key and reseal lock the slot's lease, as the functions of 002_issuance.sql do. So no holder of a lease sees a
-- change of keys or seals before the change is complete.
--
-- Run this file after 002_issuance.sql. You may run the file again at any time.

begin;

-- An earlier version of set_app_key had no argument expires_at. If the database had both versions of set_app_key,
-- PostgREST could not choose one of them.
drop function if exists public.set_app_key(text, text, text, text, boolean);
create or replace function public.set_app_key(
    service     text,
    app_key     text,
    app_secret  text,
    environment text,
    keeps_token boolean,
    expires_at  timestamptz default null
) returns jsonb
    language plpgsql
    security definer
    set search_path = pg_catalog, pg_temp
as $$
declare
    lease          public.credential_leases;
    ended          bigint;
    its_column     text;
    its_constraint text;
    its_words      text;
    its_context    text;
begin
    perform public.issuance_check_service(service);
    if coalesce(length(btrim(app_key, E' \t\n\r')), 0) = 0 or coalesce(length(btrim(app_secret, E' \t\n\r')), 0) = 0
        or greatest(length(app_key), length(app_secret)) > 8192 then
        raise exception 'app_key and app_secret must have 1 to 8192 characters' using errcode = '22023';
    end if;
    if environment is null or environment not in ('production', 'paper') then
        raise exception 'environment must be production or paper' using errcode = '22023';
    end if;
    if keeps_token is null then
        raise exception 'keeps_token must be true or false' using errcode = '22023';
    end if;
    if not isfinite(expires_at) then
        raise exception 'expires_at must be a time, or null if it is not known' using errcode = '22023';
    end if;

    lease := public.issuance_lock(service);

    begin
        insert into public.api_credentials as c
            (service_name, credential_type, credential_value, expires_at, is_active, environment, description)
        values
            (service, 'app_key', set_app_key.app_key, set_app_key.expires_at, true, set_app_key.environment, 'KIS app key'),
            (service, 'app_secret', set_app_key.app_secret, set_app_key.expires_at, true, set_app_key.environment,
             'KIS app secret')
        on conflict (service_name, credential_type) do update
            set credential_value = excluded.credential_value, expires_at = excluded.expires_at, is_active = true,
                environment = excluded.environment;
        set constraints all immediate;  -- checks deferred constraints now, so that this block catches their errors
    exception
        when others then
            get stacked diagnostics its_column = column_name, its_constraint = constraint_name,
                its_words = message_text, its_context = pg_exception_context;
            perform public.issuance_raise_unwritten(sqlstate, its_column, its_constraint, its_words, its_context);
    end;

    if not keeps_token then
        update public.api_credentials c set is_active = false
        where c.service_name = service and c.credential_type = 'access_token' and c.is_active;
        get diagnostics ended = row_count;
        if lease.holder is not null then
            perform public.issuance_log(lease, 'aborted', null, 'app-key-changed');
        end if;
        -- If a caller holds the lease at this moment, the caller uses the slot's previous app key. The fence changes,
        -- so the commit of this caller stores nothing. From now on, another slot may use the previous app key.
        update public.credential_leases l
        set fence = l.fence + 1, holder = null, lease_until = null, app_key_id = null
        where l.service_name = service;
    end if;

    return jsonb_build_object(
        'status', case when ended > 0 then 'token-ended' else 'stored' end, 'server_now', clock_timestamp()
    );
end
$$;

comment on function public.set_app_key(text, text, text, text, boolean, timestamptz) is
    'Stores an account''s key and secret together. expires_at is the time until which KIS accepts them, or null if this time is not known. Clients only warn before this time. If keeps_token is false, the slot''s token becomes inactive, and a caller that holds the lease cannot store its token. Returns a status: token-ended (an active token became inactive) or stored.';

create or replace function public.reseal(
    service          text,
    credential_type  text,
    value            text,
    replaces_version bigint
) returns jsonb
    language plpgsql
    security definer
    set search_path = pg_catalog, pg_temp
as $$
declare
    lease          public.credential_leases;
    new_version    bigint;
    its_column     text;
    its_constraint text;
    its_words      text;
    its_context    text;
begin
    perform public.issuance_check_service(service);
    if value is null or length(value) > 65536 or value !~ '^enc:v1:[^:]+:[A-Za-z0-9_=-]+$' then
        raise exception 'not an enc:v1: envelope' using errcode = '22023';
    end if;

    lease := public.issuance_lock(service);
    begin
        update public.api_credentials c set credential_value = reseal.value
        where c.service_name = service and c.credential_type = reseal.credential_type and c.version = replaces_version
        returning c.version into new_version;
        set constraints all immediate;  -- checks deferred constraints now, so that this block catches their errors
    exception
        when others then
            get stacked diagnostics its_column = column_name, its_constraint = constraint_name,
                its_words = message_text, its_context = pg_exception_context;
            perform public.issuance_raise_unwritten(sqlstate, its_column, its_constraint, its_words, its_context);
    end;

    -- The sealed value is the same token as before. So only token_version changes in the row of the lease; token_id and
    -- issued_at stay correct.
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

comment on function public.reseal(text, text, text, bigint) is
    'Replaces a value by its sealed form, an enc:v1: envelope, if the row still has the version replaces_version. Returns a status: sealed, or changed if the row has another version.';

revoke all on function public.set_app_key(text, text, text, text, boolean, timestamptz),
    public.reseal(text, text, text, bigint)
    from public, anon, authenticated, service_role;
grant execute on function
    public.set_app_key(text, text, text, text, boolean, timestamptz), public.reseal(text, text, text, bigint)
to service_role;

notify pgrst, 'reload schema';

commit;
