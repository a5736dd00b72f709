-- The shared store: one row for each credential of each service.
--
-- Run it on an empty database, on a Supabase project, or on a table that holds rows already; run it as often as you
-- like. It needs the roles anon, authenticated and service_role, which every Supabase project has. Nothing that is
-- stored is changed: existing rows only get a version.

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

-- Rights and policies belong to one table. A partition, a child or a parent has its own, by which others may read the
-- same rows.
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
            hint = 'It must be an ordinary table without children and parents. Give it another name (alter ... public.api_credentials rename to ...), run this file again, copy the rows into the new table, then drop the old one with its partitions or children: its rights are not those of the new one.';
    end if;
end
$$;

-- A table that was made without the constraint gets an index that does the same: every write relies on it.
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

-- Versions come from a sequence, not from "old + 1": a row that was deleted and made again must never look like the
-- one it replaced.
create sequence if not exists public.api_credentials_version_seq as bigint;

alter table public.api_credentials
    add column if not exists version bigint not null default nextval('public.api_credentials_version_seq');

alter sequence public.api_credentials_version_seq owned by public.api_credentials.version;

comment on table public.api_credentials is
    'Keys and tokens shared by every job and machine. One row for each service and type. Readable by service_role only.';
comment on column public.api_credentials.id is 'Surrogate key; nothing refers to it.';
comment on column public.api_credentials.service_name is
    'The slot: kis for a real account, kis-paper for a paper account, any other name for further accounts or services.';
comment on column public.api_credentials.credential_type is
    'What the value is: app_key, app_secret, access_token, rejected_tokens (fingerprints, written by the functions), or a name of your own for other services.';
comment on column public.api_credentials.credential_value is
    'The secret. A token is a JSON string {"access_token","expires_at","issued_at"}; with sealing on, an enc:v1: envelope.';
comment on column public.api_credentials.expires_at is
    'When the value ends; null for what does not end. Readers take the earliest of this, the JSON and the token itself.';
comment on column public.api_credentials.is_active is 'An inactive row counts as absent.';
comment on column public.api_credentials.environment is 'production or paper. For people; the slot decides.';
comment on column public.api_credentials.description is 'Free text for people.';
comment on column public.api_credentials.updated_at is
    'When value, expiry or is_active last changed, by the database''s clock. Set by a trigger, whatever a client sends.';
comment on column public.api_credentials.created_at is 'When the row was made.';
comment on column public.api_credentials.version is
    'Another number after each change of value, expiry or is_active. Set by a trigger, whatever a client sends.';

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

comment on function public.api_credentials_touch() is 'Trigger: version and updated_at follow every change that matters.';

create or replace trigger api_credentials_touch
    before insert or update on public.api_credentials
    for each row execute function public.api_credentials_touch();

-- Who may reach the table. Default privileges differ between old and new Supabase projects, so all of it is said here.
alter table public.api_credentials enable row level security;

-- service_role gets back what it needs below: truncate would pass the trigger by.
revoke all on table public.api_credentials from public, anon, authenticated, service_role;
revoke all on sequence public.api_credentials_version_seq from public, anon, authenticated;
revoke all on function public.api_credentials_touch() from public, anon, authenticated, service_role;

grant usage on schema public to service_role;
grant select, insert, update, delete on table public.api_credentials to service_role;
grant usage on sequence public.api_credentials_version_seq to service_role;

-- The sequence behind id has the name its table's maker gave it.
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

-- On Supabase service_role passes row level security by itself; a plain PostgreSQL needs it said.
drop policy if exists api_credentials_service_role on public.api_credentials;
create policy api_credentials_service_role on public.api_credentials
    for all to service_role using (true) with check (true);

notify pgrst, 'reload schema';

commit;
