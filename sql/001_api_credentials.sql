-- The shared store: one row for each credential of each slot.
--
-- Run this file on an empty database, on a Supabase project, or on a table that already has rows. You may run the file
-- again at any time. This file needs the roles anon, authenticated and service_role, which every Supabase project has.
-- This file changes no stored value. This file adds the column "version", with a number for each existing row. If
-- another program made the table, this file adds the missing columns, removes the length limits of text columns, and
-- makes similar corrections that change no stored value. If the table has a difference that this file does not correct,
-- this file stops, changes nothing, and lists each difference with the statement that corrects the difference.

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

-- The rights and policies of api_credentials apply only to api_credentials itself. A partition, a child table or a
-- parent table of api_credentials has rights of its own. So other roles could read the rows of api_credentials through
-- a partition, a child table or a parent table.
do $$
declare
    kind      text;
    relatives text;
begin
    select case c.relkind
               when 'r' then null when 'p' then 'a partitioned table' when 'v' then 'a view'
               when 'm' then 'a materialized view' when 'f' then 'a foreign table' else 'not a table'
           end
    into kind
    from pg_catalog.pg_class c where c.oid = 'public.api_credentials'::regclass;
    select string_agg(
               case when i.inhparent = 'public.api_credentials'::regclass
                    then 'has the child ' || i.inhrelid::regclass else 'is a child of ' || i.inhparent::regclass end,
               ', ' order by i.inhrelid, i.inhparent)
    into relatives
    from pg_catalog.pg_inherits i
    where 'public.api_credentials'::regclass in (i.inhparent, i.inhrelid);

    if kind is not null or relatives is not null then
        raise exception 'api_credentials %', concat_ws(', ', 'is ' || kind, relatives)
            using errcode = '42809',
            hint = 'It must be an ordinary table without children and parents. Give it another name (alter ... public.api_credentials rename to ...), run this file again, copy the rows into the new table, then drop the old one with its partitions or children: the old table has rights of its own.';
    end if;
end
$$;

-- Returns the differences that prevent the table from storing keys and tokens. mend is the statement that corrects the
-- difference. If loses_nothing is true, this statement changes no stored value. check_setup reports the differences
-- that this function returns.
create or replace function public.api_credentials_faults()
    returns table (kind text, said text, mend text, loses_nothing boolean)
    language plpgsql
    stable
    set search_path = pg_catalog, pg_temp
as $$
declare
    its_table constant oid := to_regclass('public.api_credentials');
    lacking   text;
    c         record;
    changed   text;
begin
    select string_agg(n.name, ', ') into lacking
    from (values ('service_name'), ('credential_type'), ('credential_value')) n (name)
    where not exists (
        select from pg_catalog.pg_attribute a
        where a.attrelid = its_table and a.attname = n.name and not a.attisdropped);
    if its_table is null then
        return;
    elsif lacking is not null then
        return query select 'columns', 'it lacks the columns ' || lacking,
            'alter table public.api_credentials rename to other_credentials', false;
        return;
    end if;

    for c in
        select a.attname::text as name, w.type, format_type(a.atttypid, a.atttypmod) as its_type, t.typcategory as category,
               coalesce(nullif(t.typbasetype, 0), t.oid)::regtype::text as base,
               case t.typtype when 'd' then t.typtypmod else a.atttypmod end as modifier,
               a.atthasdef as has_default, a.attgenerated as generated, a.attidentity <> '' as is_identity,
               w.length, w.value as default_value, w.type <> 'text' or t.typcategory not in ('S', 'E') as keeps_no_default,
               true as loses_nothing
        from (values
            ('service_name', 'text', 63, null), ('credential_type', 'text', 63, null),
            ('credential_value', 'text', 65536, null), ('expires_at', 'timestamp with time zone', null, null),
            ('is_active', 'boolean', null, 'true'), ('environment', 'text', 63, '''production'''),
            ('description', 'text', 200, null), ('updated_at', 'timestamp with time zone', null, 'now()'),
            ('version', 'bigint', null, null)
        ) w (name, type, length, value)
        join pg_catalog.pg_attribute a on a.attrelid = its_table and a.attname = w.name and not a.attisdropped
        join pg_catalog.pg_type t on t.oid = a.atttypid
        order by a.attnum
    loop
        if c.name = 'version' and (c.base <> 'bigint' or c.is_identity or c.generated <> '') then
            return query select 'columns', 'the column version belongs to another program',
                'alter table public.api_credentials rename column version to other_version', false;
        elsif c.generated <> '' then
            return query select 'columns', c.name || ' is a generated column',
                format('alter table public.api_credentials %s',
                       case c.generated when 's' then format('alter column %I drop expression', c.name)
                       else format('drop column %1$I, add column %1$I %2$s', c.name,
                                   c.type || coalesce(' default ' || c.default_value, '')) end),
                false;
        elsif not (c.base = c.type
                   or c.base = 'character varying' and coalesce(c.length <= nullif(c.modifier, -1) - 4, c.modifier = -1)
                   or c.name = 'updated_at' and c.base = 'timestamp without time zone') then
            execute format('select %L in (''S'', ''E'') and %L = ''text'' or not exists ('
                           'select from public.api_credentials c where c.%I is not null)', c.category, c.type, c.name)
            into c.loses_nothing;
            changed := case
                when c.type = 'text' and c.base in ('json', 'jsonb') then format('%I #>> ''{}''', c.name)
                when c.type = 'text' and c.base = 'bytea' then format('convert_from(%I, ''UTF8'')', c.name)
                when c.type = 'text' then format('%I::text', c.name)
                when c.type = 'boolean' and c.category = 'N' then format('%I <> 0', c.name)
                when c.type = 'boolean' then format('%I::text::boolean', c.name)
                when c.category = 'N' then
                    format('to_timestamp(case when %1$I > 99999999999 then %1$I / 1000.0 else %1$I end)', c.name)
                when c.base = 'timestamp without time zone' then format('%I at time zone ''Asia/Seoul''', c.name)
                -- A time without an offset is read as Korea time.
                else format('case when %1$I::text ~* '':.*(z|[+-][0-9]{2}(:?[0-9]{2})?)$'''
                            ' then nullif(btrim(%1$I::text), '''')::timestamptz'
                            ' else nullif(btrim(%1$I::text), '''')::timestamp at time zone ''Asia/Seoul'' end', c.name)
            end;
            return query select 'columns',
                format('%s is %s, not %s%s', c.name, c.its_type, c.type,
                       case when changed like '%Asia/Seoul%' then
                           ' (the statement reads the times as Korea time; if your programs write UTC, replace Asia/Seoul by UTC)' else '' end),
                format('alter table public.api_credentials %1$salter column %2$I type %3$s using %4$s%5$s',
                       case when c.has_default and c.keeps_no_default then format('alter column %I drop default, ', c.name) end,
                       c.name, c.type, changed,
                       case when c.has_default and c.keeps_no_default then
                           format(', alter column %I set default ', c.name) || c.default_value end),
                c.loses_nothing;
        end if;
    end loop;

    -- The next query returns the required columns that the functions do not write. If the table has a trigger of
    -- another program before an insert, the trigger may fill the required columns, so the query returns no rows. Later,
    -- begin_issuance writes to the table to test whether the table can store a token.
    return query
        select 'columns', format('%s is not null and has no default', a.attname),
               format('alter table public.api_credentials %s', case
                   when a.attname = 'id' and t.typcategory = 'S' then 'alter column id set default gen_random_uuid()::text'
                   when a.attname = 'id' and t.typname = 'uuid' then 'alter column id set default gen_random_uuid()'
                   when k.conname is null then format('alter column %I drop not null', a.attname)
                   when t.typname in ('int8', 'int4', 'int2') then
                       format('alter column %I add generated by default as identity (start with %s)', a.attname,
                              (select coalesce(max((to_jsonb(r) ->> a.attname)::bigint), 0) + 1 from public.api_credentials r))
                   else format('drop constraint %I, alter column %I drop not null', k.conname, a.attname) end),
               a.attname = 'id' and (t.typcategory = 'S' or t.typname = 'uuid')
        from pg_catalog.pg_attribute a
        join pg_catalog.pg_type t on t.oid = a.atttypid
        left join pg_catalog.pg_constraint k
            on k.conrelid = a.attrelid and k.contype = 'p' and a.attnum = any (k.conkey)
        where a.attrelid = its_table and a.attnum > 0 and not a.attisdropped
          and a.attname <> all (array['service_name', 'credential_type', 'credential_value', 'is_active', 'environment',
                                      'description', 'updated_at', 'version'])
          and (a.attnotnull or t.typnotnull) and not a.atthasdef and a.attidentity = '' and t.typdefault is null
          and not exists (
              select from pg_catalog.pg_trigger g
              where g.tgrelid = its_table and g.tgtype & 7 = 7 and not g.tgisinternal and g.tgenabled in ('O', 'A')
                and g.tgname <> 'api_credentials_touch')
        order by a.attnum;

    return query
        select 'indexes',
               case when i.columns @> array['service_name', 'credential_type']
                    then format('the unique constraint %s is deferrable', i.name)
                    else format('the unique index %s allows one row for each %s', i.name, array_to_string(i.columns, ', ')) end,
               case when i.conname is not null then format('alter table public.api_credentials drop constraint %I%s', i.conname,
                        case when i.columns @> array['service_name', 'credential_type']
                             then ', add unique (service_name, credential_type)' else '' end)
                    else format('drop index public.%I', i.name) end,
               false
        from (
            select n.relname as name, x.indimmediate, k.conname,
                   array(select a.attname::text from unnest(x.indkey::smallint[]) with ordinality u (attnum, place)
                         join pg_catalog.pg_attribute a on a.attrelid = x.indrelid and a.attnum = u.attnum
                         where u.place <= x.indnkeyatts order by u.place) as columns
            from pg_catalog.pg_index x
            join pg_catalog.pg_class n on n.oid = x.indexrelid
            left join pg_catalog.pg_constraint k on k.conindid = x.indexrelid and k.contype in ('u', 'p')
            where x.indrelid = its_table and x.indisunique and x.indisvalid and x.indexprs is null
        ) i
        where case when i.columns @> array['service_name', 'credential_type']
                   then cardinality(i.columns) = 2 and not i.indimmediate
                   else i.columns <@ array['service_name', 'credential_type', 'environment', 'is_active', 'description'] end;

    return query
        select 'rules', format('the rule %s replaces each write', r.rulename),
               format('drop rule %I on public.api_credentials', r.rulename), false
        from pg_catalog.pg_rewrite r where r.ev_class = its_table and r.ev_type in ('2', '3');

    -- The next query returns rows that have the same service_name and credential_type. Each duplicate row may have a
    -- key that is in use. To keep this key, the statement in the result column "mend" moves a duplicate row to another
    -- slot, and deletes no row.
    return query
        with twice as (
            select r.service_name::text as service, r.credential_type::text as type, to_jsonb(r) as row,
                   to_jsonb(r) ->> 'environment' as environment
            from public.api_credentials r
            where (r.service_name::text, r.credential_type::text) in (
                select d.service_name::text, d.credential_type::text from public.api_credentials d
                group by 1, 2 having count(*) > 1)
        ),
        kept as (
            select t.service, coalesce(max(t.environment) filter (where t.environment = 'production'), min(t.environment))
                       as environment
            from twice t group by 1
        ),
        moved as (
            select t.service, t.environment, k.environment as kept_environment,
                   string_agg(distinct format('(%s, %s)', t.service, t.type), ', ') as keys,
                   case when t.service = 'kis' and row_number() over (partition by t.service order by t.environment) = 1
                             and not exists (select from public.api_credentials p where p.service_name::text = 'kis-paper')
                        then 'kis-paper'
                        else t.service || '-' || coalesce(
                            nullif(btrim(regexp_replace(t.environment, '[^A-Za-z0-9_.]+', '-', 'g'), '-'), ''), 'other')
                   end as slot
            from twice t join kept k on k.service = t.service
            where t.environment is distinct from k.environment
            group by t.service, t.environment, k.environment
        ),
        ranked as (
            select t.*, row_number() over (
                partition by t.service, t.type, t.environment
                order by t.row ->> 'is_active' = 'true' desc nulls last, t.row ->> 'updated_at' desc nulls last, t.row ->> 'id'
            ) as place
            from twice t
        )
        select 'rows', format('%s: one row is for the environment %s, one for %s. The statement moves the latter to a slot of '
                              'its own. Programs that write it, for example by an upsert on conflict of (service_name, '
                              'credential_type, environment), must write that service_name',
                              m.keys, coalesce(m.kept_environment, 'null'), coalesce(m.environment, 'null')),
               format('update public.api_credentials set service_name = %L%s where service_name = %L and environment %s',
                      m.slot, case when m.slot = 'kis-paper' then ', environment = ''paper''' else '' end, m.service,
                      coalesce('= ' || quote_literal(m.environment), 'is null')),
               false
        from moved m
        union all
        select 'rows', format('(%s, %s): the row with id %s, environment %s, %s, changed %s, is a duplicate. The statement '
                              'moves it to a slot of its own. Find out first which row is in use',
                              n.service, n.type, n.row ->> 'id', coalesce(n.environment, 'null'),
                              case n.row ->> 'is_active' when 'true' then 'active' else 'inactive' end,
                              coalesce(n.row ->> 'updated_at', 'at an unknown time')),
               format('update public.api_credentials set service_name = %L where id = %L',
                      n.service || '-older' || case when n.place > 2 then '-' || n.place else '' end, n.row ->> 'id'),
               false
        from ranked n where n.place > 1;
end
$$;

comment on function public.api_credentials_faults() is
    'Returns the differences that prevent the table from storing a token. The column "kind" is columns, rows, indexes or rules. The column "said" describes the difference. The column "mend" has the statement that corrects the difference. The column "loses_nothing" is true if that statement changes no stored value.';

-- Run each correction that changes no stored value. If differences remain, raise one error that lists them.
do $$
declare
    each    record;
    refused text := '';
    words   text;
    details text;
    faults  text;
    twice   text;
begin
    if not exists (select from public.api_credentials_faults() f where f.said like 'it lacks the columns %') then
        for each in
            select w.name, w.type from (values
                ('id', 'bigserial'), ('expires_at', 'timestamptz'), ('is_active', 'boolean default true'),
                ('environment', 'text default ''production'''), ('description', 'text'),
                ('updated_at', 'timestamptz default now()'), ('created_at', 'timestamptz default now()')) w (name, type)
            where not exists (
                select from pg_catalog.pg_attribute a
                where a.attrelid = 'public.api_credentials'::regclass and a.attname = w.name and not a.attisdropped)
        loop
            execute format('alter table public.api_credentials add column %I %s', each.name, each.type);
        end loop;
        for each in
            select format('alter table public.api_credentials alter column %1$I type text using %1$I::text', a.attname) as mend
            from pg_catalog.pg_attribute a join pg_catalog.pg_type t on t.oid = a.atttypid
            where a.attrelid = 'public.api_credentials'::regclass and t.typtype <> 'd' and t.typname <> 'text'
              and t.typcategory in ('S', 'E') and a.attname = any (
                  array['service_name', 'credential_type', 'credential_value', 'environment', 'description'])
            union
            select f.mend from public.api_credentials_faults() f where f.loses_nothing
        loop
            begin
                execute each.mend;
            exception
                when others then
                    get stacked diagnostics words = message_text, details = pg_exception_detail;
                    refused := refused || format(
                        E'\nPostgreSQL refuses "%s": %s. Drop the objects that depend on the column, and create them again afterwards.',
                        each.mend, concat_ws('; ', words, nullif(details, '')));
            end;
        end loop;
    end if;

    select string_agg(format(E'\n%s. %s:\n   %s;', n.number, n.said, n.mend), '' order by n.number)
    into faults
    from (select f.*, row_number() over () as number from public.api_credentials_faults() f) n;
    if exists (select from public.api_credentials_faults() f where f.kind = 'rows') then
        select string_agg(format('(%s, %s)', d.service_name, d.credential_type), ', ') into twice
        from (select c.service_name, c.credential_type from public.api_credentials c
              group by 1, 2 having count(*) > 1 order by 1, 2) d;
    end if;
    if faults is not null then
        raise exception '%', case when twice is not null then 'api_credentials holds a credential twice'
                                  else 'api_credentials cannot store a token as it is' end || ':' || faults || refused
            using errcode = case when twice is not null then '23505' else '42809' end,
            detail = coalesce('There are several rows of ' || twice || '. ', '') || 'Nothing was changed.',
            hint = 'Read each statement, run it, and adapt the programs that use the changed rows or columns. Then run this file again. No row has to be deleted: each may hold keys in use. If the table belongs to another program, it may keep its name: run these files in a project of their own.';
    end if;
end
$$;

-- The functions write with "on conflict", which needs a unique constraint or a unique index on service_name and
-- credential_type. If the table has no unique constraint and no unique index on these two columns, the following
-- statement makes a unique index.
do $$
begin
    if not exists (
        select from pg_catalog.pg_index i
        where i.indrelid = 'public.api_credentials'::regclass and i.indisunique and i.indisvalid and i.indimmediate
          and i.indpred is null and i.indnkeyatts = 2
          and (select array_agg(a.attname::text order by a.attname) from pg_catalog.pg_attribute a
               where a.attrelid = i.indrelid and a.attnum = any (i.indkey)) = array['credential_type', 'service_name']
    ) then
        create unique index on public.api_credentials (service_name, credential_type);
    end if;
end
$$;

create index if not exists idx_api_cred_service_active on public.api_credentials (service_name, is_active);
create index if not exists idx_api_cred_expires on public.api_credentials (expires_at);

-- Each new version of a row is the next number of a sequence. If each change added 1 to the row's old version, a row
-- that is deleted and inserted again could get the version of the deleted row.
create sequence if not exists public.api_credentials_version_seq as bigint;

alter table public.api_credentials
    add column if not exists version bigint not null default nextval('public.api_credentials_version_seq');

alter sequence public.api_credentials_version_seq owned by public.api_credentials.version;

-- If another program made the table, the table may already have a column with the name version. Possibly, the existing
-- column "version" has values, or has no default.
alter table public.api_credentials
    alter column version set default nextval('public.api_credentials_version_seq');
do $$
begin
    perform setval('public.api_credentials_version_seq', max(c.version))
    from public.api_credentials c
    having max(c.version) > (select s.last_value from public.api_credentials_version_seq s);
    update public.api_credentials set version = nextval('public.api_credentials_version_seq') where version is null;
    alter table public.api_credentials alter column version set not null;
end
$$;

comment on table public.api_credentials is
    'The keys and tokens that all jobs and machines share. One row for each slot and type. Of the roles of the API, only service_role may read keys, and kis_token_reader may read tokens.';
comment on column public.api_credentials.id is 'Surrogate key. No other table refers to it.';
comment on column public.api_credentials.service_name is
    'The slot: kis for a real account, kis-paper for a paper account, any other name for further accounts or services.';
comment on column public.api_credentials.credential_type is
    'The type of the value: app_key, app_secret, access_token, rejected_tokens (fingerprints, written by the functions), or a name of your own for other services.';
comment on column public.api_credentials.credential_value is
    'The secret. A token is a JSON string {"access_token","expires_at","issued_at"}. A sealed value is an enc:v1: envelope.';
comment on column public.api_credentials.expires_at is
    'The time at which the value expires; null if it does not expire. For a token, clients use the earliest of this time, the time in the JSON and the time in the token itself. For an app key and secret, clients only warn before this time.';
comment on column public.api_credentials.is_active is 'If is_active is not true, the functions and the clients ignore the row.';
comment on column public.api_credentials.environment is 'production or paper. Only for information: the slot selects the account.';
comment on column public.api_credentials.description is 'Free text.';
comment on column public.api_credentials.updated_at is
    'The time of the last change of credential_value, expires_at or is_active, by the database''s clock. A trigger sets this column and ignores the client''s value.';
comment on column public.api_credentials.created_at is 'The time at which the row was inserted.';
comment on column public.api_credentials.version is
    'A new number after each change of credential_value, expires_at or is_active. A trigger sets this column and ignores the client''s value.';

create or replace function public.api_credentials_touch() returns trigger
    language plpgsql
    set search_path = pg_catalog, pg_temp
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

comment on function public.api_credentials_touch() is 'Trigger: sets version and updated_at when value, expiry or is_active changes.';

create or replace trigger api_credentials_touch
    before insert or update on public.api_credentials
    for each row execute function public.api_credentials_touch();

-- This file sets all rights on the table, because default privileges differ between old and new Supabase projects.
alter table public.api_credentials enable row level security;

-- service_role gets no right to truncate api_credentials, because truncate does not run the trigger
-- api_credentials_touch.
revoke all on table public.api_credentials from public, anon, authenticated, service_role;
revoke all on sequence public.api_credentials_version_seq from public, anon, authenticated;
revoke all on function public.api_credentials_touch(), public.api_credentials_faults()
    from public, anon, authenticated, service_role;

grant usage on schema public to service_role;
grant select, insert, update, delete on table public.api_credentials to service_role;
grant usage on sequence public.api_credentials_version_seq to service_role;

-- If another program made the table, the sequence of the column id may have any name.
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

-- On Supabase, service_role bypasses row level security. On a plain PostgreSQL, service_role needs the policy
-- api_credentials_service_role.
drop policy if exists api_credentials_service_role on public.api_credentials;
create policy api_credentials_service_role on public.api_credentials
    for all to service_role using (true) with check (true);

notify pgrst, 'reload schema';

commit;
