-- Finds tables, functions, grants and row level security that differ from those that the files of sql/ make. The check
-- changes nothing: to test whether the table can store a token, the check writes a made-up token and rolls the write
-- back.
--
-- kis-token check calls check_setup(). If a file of sql/ has not been run, check_setup() reports the missing functions.
-- You may run this file again at any time.

begin;

-- The version of the files of sql/. If a new release of kis-token needs a change of the files of sql/, the author of
-- the change also increases their version. The member "schema_version" in the answer of begin_issuance is the same
-- number as the result of credential_schema_version.
create or replace function public.credential_schema_version() returns integer
    language sql
    immutable
    security definer
    set search_path = pg_catalog, pg_temp
as $$
    select 2;
$$;

comment on function public.credential_schema_version() is 'The version of the files of sql/ that were run last.';

create or replace function public.check_setup() returns jsonb
    language plpgsql
    security definer
    set search_path = pg_catalog, pg_temp
as $$
declare
    found  jsonb;
    slot   text;
    reason text;
begin
    with
    tables (name) as (
        values
            ('api_credentials'), ('credential_leases'), ('credential_issuances'),
            ('credential_issuer_keys'), ('credential_callers'), ('credential_attempts')
    ),
    columns (name) as (
        values
            ('id'), ('service_name'), ('credential_type'), ('credential_value'), ('expires_at'), ('is_active'),
            ('environment'), ('description'), ('updated_at'), ('created_at'), ('version')
    ),
    -- The lists "keyless" and "entries" contain functions of sql/. Each function is listed with its arguments, because
    -- a project may have other functions with the same name. The list "keyless" has the functions that anon and
    -- authenticated call. In the list "entries", the column is_entry is true for the functions that service_role calls.
    keyless (name, arguments) as (
        values
            ('keyless_read', 'text, text'),
            ('keyless_begin', 'text, uuid, text, text, interval, bigint, text, bigint, text'),
            ('keyless_commit', 'text, uuid, bigint, text, timestamp with time zone, timestamp with time zone, text, boolean, text'),
            ('keyless_abort', 'text, uuid, bigint, interval, text, text, text')
    ),
    entries (name, arguments, is_entry) as (
        values
            ('begin_issuance', 'text, uuid, text, text, text, interval, bigint, text, bigint', true),
            ('commit_issuance', 'text, uuid, bigint, text, timestamp with time zone, timestamp with time zone, text, boolean', true),
            ('abort_issuance', 'text, uuid, bigint, interval, text, text', true),
            ('save_token', 'text, text, timestamp with time zone, bigint, bigint, text', true),
            ('revoke_token', 'text, bigint, text, text', true),
            ('issuance_status', 'text, integer, text', true),
            ('prune_issuances', 'interval', true),
            ('set_app_key', 'text, text, text, text, boolean, timestamp with time zone', true),
            ('reseal', 'text, text, text, bigint', true),
            ('credential_schema_version', '', true),
            ('api_credentials_faults', '', false),
            ('issuance_plain_token_id', 'text', false),
            ('issuance_check_service', 'text', false),
            ('issuance_check_token', 'text, timestamp with time zone', false),
            ('issuance_lock', 'text', false),
            ('issuance_log', 'public.credential_leases, text, text, text', false),
            ('issuance_token_row', 'text', false),
            ('issuance_keys_version', 'text', false),
            ('issuance_raise_unwritten', 'text, text, text, text, text', false),
            ('issuance_prove', 'text', false),
            ('issuance_put', 'text, text, text, timestamp with time zone, text', false),
            ('issuance_write', 'text, text, timestamp with time zone', false),
            ('issuance_rejected', 'text', false),
            ('issuance_rejected_ids', 'text', false),
            ('issuance_reject', 'text, text, timestamp with time zone', false),
            ('credential_callers_status', 'text', true),
            ('issuance_is_issuer', 'text', false),
            ('issuance_from_base64url', 'text', false),
            ('issuance_number', 'bytea', false),
            ('issuance_is_rs256', 'bytea, bytea, bytea', false),
            ('issuance_id_token_claims', 'text', false),
            ('issuance_is_audience', 'text', false),
            ('issuance_is_ref', 'text', false),
            ('issuance_events', '', false),
            ('issuance_caller_insert', 'text, jsonb, text', false),
            ('issuance_check_times', 'jsonb, integer', false),
            ('issuance_caller', 'text, jsonb, text, integer', false),
            ('issuance_differences', 'public.credential_callers, jsonb', false),
            ('issuance_check_app_key', 'text, text, jsonb', false),
            ('issuance_check_attempt', 'text, uuid, jsonb', false),
            ('issuance_claim_attempt', 'text, uuid, jsonb', false)
    ),
    ours (name, arguments, is_entry, is_keyless) as (
        select e.name, e.arguments, e.is_entry, false from entries e
        union all
        select k.name, k.arguments, false, true from keyless k
    ),
    policies (table_name, name) as (
        values
            ('api_credentials', 'api_credentials_service_role'),
            ('credential_leases', 'credential_leases_nobody'),
            ('credential_issuances', 'credential_issuances_nobody'),
            ('credential_issuer_keys', 'credential_issuer_keys_nobody'),
            ('credential_callers', 'credential_callers_nobody'),
            ('credential_attempts', 'credential_attempts_nobody')
    ),
    found_tables as (
        select t.name, c.oid, c.relrowsecurity, c.relkind
        from tables t
        join pg_catalog.pg_class c on c.relname = t.name and c.relnamespace = 'public'::regnamespace
    ),
    functions as (
        select p.oid, o.name, p.prosecdef, o.is_entry, o.is_keyless
        from ours o
        join pg_catalog.pg_proc p
            on p.proname = o.name and oidvectortypes(p.proargtypes) = o.arguments
            and p.pronamespace = 'public'::regnamespace
    ),
    roles as (
        select r.oid, r.rolname as name, r.rolname = 'service_role' as is_service
        from pg_catalog.pg_roles r
        where r.rolname in ('anon', 'authenticated', 'service_role', 'kis_token_reader')
    ),
    rights (name) as (
        values ('select'), ('insert'), ('update'), ('delete'), ('truncate'), ('references'), ('trigger')
    ),
    -- If a role has a right on a table but must not have it, the right is in the list "loose". kis_token_reader may
    -- read some columns of the table api_credentials.
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
        select 'tables', 'api_credentials is not an ordinary table: its rights do not cover all its rows'
        from found_tables t where t.name = 'api_credentials' and t.relkind <> 'r'
        union all
        select 'tables', case
            when i.inhparent = t.oid then format('api_credentials has the child %s, with rights of its own', i.inhrelid::regclass)
            else format('api_credentials is a child of %s, which has rights of its own', i.inhparent::regclass)
        end
        from found_tables t join pg_catalog.pg_inherits i on t.oid in (i.inhparent, i.inhrelid)
        where t.name = 'api_credentials' and t.relkind = 'r'
        union all
        select 'tables', 'api_credentials has no column ' || n.name
        from columns n join found_tables t on t.name = 'api_credentials'
        where not exists (
            select from pg_catalog.pg_attribute a
            where a.attrelid = t.oid and a.attname = n.name and not a.attisdropped
        )
        union all
        select 'tables', format('api_credentials: %s. %s;', f.said, f.mend)
        from found_tables t cross join public.api_credentials_faults() f
        where t.name = 'api_credentials' and t.relkind = 'r'
        union all
        select 'tables', 'there is no function ' || o.name
        from ours o where o.name not in (select name from functions)
        union all
        select 'tables', format('the function %s does not run as its owner', f.name)
        from functions f where (f.is_entry or f.is_keyless) and not f.prosecdef
        union all
        select 'tables', 'api_credentials may hold a credential twice: no unique index is valid'
        from found_tables t
        where t.name = 'api_credentials' and not exists (
            select from pg_catalog.pg_index i
            where i.indrelid = t.oid and i.indisunique and i.indisvalid and i.indimmediate and i.indpred is null
              and i.indnkeyatts = 2
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
        select 'grants', format('%s may not call %s', r.name, f.name)
        from roles r cross join functions f
        where r.name in ('anon', 'authenticated') and f.is_keyless
          and not has_function_privilege(r.oid, f.oid, 'execute')
        union all
        select 'grants', format('%s may call %s', r.name, f.name)
        from roles r cross join functions f
        where not (r.is_service and f.is_entry or r.name in ('anon', 'authenticated') and f.is_keyless)
          and has_function_privilege(r.oid, f.oid, 'execute')
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
    into found
    from faults f;
    if exists (select from jsonb_array_elements(found) f where f ->> 'what' = 'tables') then
        return found;
    end if;

    -- Constraints, triggers and other objects of the table can refuse a token. Only a write shows whether the table
    -- accepts a token.
    for slot in
        select distinct c.service_name from public.api_credentials c
        where c.credential_type in ('app_key', 'access_token') and c.service_name ~ '^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$'
        union select 'kis' order by 1
    loop
        begin
            perform public.issuance_prove(slot);
        exception
            when others then
                -- If the text of an error does not begin with api_credentials, the text may show values.
                reason := case when sqlerrm like 'api_credentials %' then sqlerrm else 'SQLSTATE ' || sqlstate end;
                found := found || jsonb_build_object(
                    'what', 'tables', 'said', format('the slot %s cannot store a token: %s', slot, reason));
        end;
    end loop;
    return found;
end
$$;

comment on function public.check_setup() is
    'Compares the tables, functions and rights of the database with those that the files of sql/ make. Returns a list of the differences. In each entry, "what" is the area and "said" describes the difference. If there is no difference, the list is empty. The list shows no value of any row.';

revoke all on function public.check_setup(), public.credential_schema_version()
    from public, anon, authenticated, service_role;
do $$
begin
    -- Older Supabase projects grant each new function of the schema public to every role of the API.
    if exists (select from pg_catalog.pg_roles where rolname = 'kis_token_reader') then
        revoke all on function public.check_setup(), public.credential_schema_version() from kis_token_reader;
    end if;
end
$$;
grant execute on function public.check_setup(), public.credential_schema_version() to service_role;

notify pgrst, 'reload schema';

commit;
