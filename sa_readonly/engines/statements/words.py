"""The words, settings and functions that the examination of a text knows, as lists."""

from __future__ import annotations

import re


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# -- the first word of a statement -----------------------------------------------------------

QUERIES = _words("SELECT WITH VALUES TABLE")
EXPLAINS = _words("EXPLAIN DESCRIBE DESC ANALYZE")
SETTINGS = _words("SET RESET BEGIN START COMMIT END ROLLBACK ABORT")
DML = _words("INSERT UPDATE DELETE MERGE REPLACE")
READS = (
    QUERIES
    | EXPLAINS
    | SETTINGS
    | _words("""
        SHOW CHECKSUM HELP GET USE PRAGMA LOAD LISTEN UNLISTEN SAVEPOINT RELEASE
        DECLARE FETCH MOVE CLOSE COPY PREPARE EXECUTE DEALLOCATE
    """)
)
"""The first words of statements that may read. Most of these are examined further."""

# -- what follows it -------------------------------------------------------------------------

AFTER_BEGIN = _words("""
    TRANSACTION TRAN WORK DEFERRED IMMEDIATE EXCLUSIVE CONCURRENT ISOLATION READ DEFERRABLE
""")
EXPLAIN_OPTIONS = _words("VERBOSE EXTENDED PARTITIONS FORMAT QUERY PLAN")

# -- settings --------------------------------------------------------------------------------

ON = _words("ON 1 TRUE YES")
PROTECTING = _words("""
    transaction_read_only default_transaction_read_only tx_read_only query_only
    standard_conforming_strings
""")
"""The settings that protect while on. While the last is off, the server reads strings otherwise."""

SQL_MODES = {""} | _words("""
    ALLOW_INVALID_DATES EMPTY_STRING_IS_NULL ERROR_FOR_DIVISION_BY_ZERO HIGH_NOT_PRECEDENCE
    IGNORE_SPACE NO_AUTO_CREATE_USER NO_AUTO_VALUE_ON_ZERO NO_DIR_IN_CREATE
    NO_ENGINE_SUBSTITUTION NO_UNSIGNED_SUBTRACTION NO_ZERO_DATE NO_ZERO_IN_DATE
    ONLY_FULL_GROUP_BY PAD_CHAR_TO_FULL_LENGTH PIPES_AS_CONCAT REAL_AS_FLOAT
    SIMULTANEOUS_ASSIGNMENT STRICT_ALL_TABLES STRICT_TRANS_TABLES TIME_ROUND_FRACTIONAL
    TIME_TRUNCATE_FRACTIONAL TRADITIONAL
""")
"""The modes of MySQL's sql_mode that change nothing of what a quote or a backslash means."""

SQL_MODE_WORDS = _words("SQL_MODE SESSION LOCAL GLOBAL DEFAULT SELECT CONCAT REPLACE")
"""The words that may stand in an assignment to sql_mode."""

CHARSETS_WITH_QUOTES = re.compile(
    r"big5|gbk|gb18030|s(hift)?jis|mskanji|uhc|johab|(cp|win|windows)9\d\d", re.IGNORECASE
)
"""The beginnings of character sets in which a character's last byte may be that of a quote or a
backslash. It is compared with the letters and digits of a name, as PostgreSQL does."""

# PRAGMAs of SQLite that may be given an argument or a value: they tell, or set what lasts as long
# as the connection.
PRAGMAS = _words("""
    analysis_limit automatic_index busy_timeout cache_size cache_spill case_sensitive_like
    cell_size_check checkpoint_fullfsync count_changes defer_foreign_keys foreign_key_check
    foreign_key_list foreign_keys full_column_names fullfsync hard_heap_limit
    ignore_check_constraints index_info index_list index_xinfo integrity_check journal_size_limit
    legacy_alter_table max_page_count mmap_size quick_check read_uncommitted recursive_triggers
    reverse_unordered_selects secure_delete short_column_names soft_heap_limit synchronous
    table_info table_list table_xinfo temp_store threads trusted_schema wal_autocheckpoint
""")
PRAGMAS_THAT_WRITE = _words("incremental_vacuum optimize wal_checkpoint")

# -- functions -------------------------------------------------------------------------------

# Functions that act. A server runs most of them in a read-only transaction; of the others its
# refusal comes late or says less.
FUNCTIONS = re.compile(
    r"""
    # sequences, large objects
      nextval | setval
    | lo_(creat|create|from_bytea|import|put|unlink|truncate|truncate64|export) | lowrite
    # messages, locks, other servers, files, code
    | pg_notify | pg_(try_)?advisory_(xact_)?lock(_shared)? | get_lock
    | dblink\w* | pg_file_\w+ | load_extension
    # the log, replication
    | pg_logical_emit_message | pg_logical_slot_get_\w+ | pg_switch_(wal|xlog) | pg_promote
    | pg_create_\w+ | pg_drop_\w+ | pg_copy_\w+_slot | pg_replication_slot_advance
    | pg_replication_origin_(create|drop|advance|session_setup|session_reset)
    | pg_replication_origin_xact_(setup|reset) | pg_sync_replication_slots
    # the catalog or an index, past a read-only transaction
    | pg_(restore|clear)_\w+_stats | pg_stat_(statements_)?reset\w* | gin_clean_pending_list
    | brin_(summarize|desummarize)_\w+ | pg_truncate_visibility_map | heap_force_\w+
    | pg_import_system_collations | pg_extension_config_dump | pg_nextoid | binary_upgrade_\w+
    # a transaction id, which is a record in the log, or a lock that stops writers
    | txid_current | pg_current_xact_id | bt_index_parent_check
    # the server or other sessions, whatever becomes of the transaction
    | pg_(cancel|terminate)_backend | pg_reload_conf | pg_rotate_logfile(_old)?
    | pg_log_(backend_memory_contexts|standby_snapshot) | pg_stop_making_pinned_objects
    | pg_backup_(start|stop) | pg_(start|stop)_backup | pg_(wal|xlog)_replay_(pause|resume)
    | autoprewarm_\w+ | pg_buffercache_evict\w*
    """,
    re.VERBOSE,
)

# -- FROM ------------------------------------------------------------------------------------

FROM_ENDS = _words("""
    WHERE GROUP HAVING WINDOW ORDER LIMIT OFFSET FETCH FOR UNION INTERSECT EXCEPT
""")
"""The words that end FROM. None of them names a column without AS."""

FROM_GOES_ON = _words("JOIN LEFT RIGHT FULL INNER CROSS NATURAL ON USING TABLESAMPLE")
"""The words that stand after a table in FROM and are no alias of it."""

FUNCTIONS_WITHOUT_PARENTHESES = _words("""
    CURRENT_DATE CURRENT_TIME CURRENT_TIMESTAMP LOCALTIME LOCALTIMESTAMP CURRENT_ROLE CURRENT_USER
    SESSION_USER SYSTEM_USER USER CURRENT_CATALOG CURRENT_SCHEMA
""")
