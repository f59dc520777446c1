"""Words that may stand before a parenthesis without calling anything unknown.

`NATIVE` holds the functions that MySQL (to 9.x) and MariaDB (to 11.x) bring along, minus those that leave something
behind in the session or read something a previous statement left there (GET_LOCK, RELEASE_LOCK, CONNECTION_ID,
LAST_INSERT_ID, FOUND_ROWS, ROW_COUNT, LASTVAL, …: `classify` knows them by name). A native function wins over a stored
one of the same name.
`KEYWORDS` holds grammar words and types that a parenthesis may follow; unquoted, none of them can be a stored function.
Loadable functions (UDFs) of components and plugins are deliberately not here: nobody can know what they do.
"""

from __future__ import annotations

from typing import Final

_AGGREGATE = """
any_value approx_count_distinct avg bit_and bit_or bit_xor count cume_dist dense_rank first_value group_concat
grouping json_arrayagg json_objectagg lag last_value lead max median min nth_value ntile percent_rank
percentile_cont percentile_disc rank row_number st_collect std stddev stddev_pop stddev_samp sum var_pop
var_samp variance
"""

_GENERAL = """
abs acos add_months adddate addtime aes_decrypt aes_encrypt ascii asin atan atan2 benchmark bin bin_to_uuid
binlog_gtid_pos bit_count bit_length cast ceil ceiling char char_length character_length charset chr coalesce
coercibility collation compress concat concat_operator_oracle concat_ws conv convert convert_tz
cos cot crc32 crc32c curdate current_date current_role current_time current_timestamp current_user curtime
database date date_add date_format date_sub datediff day dayname dayofmonth dayofweek dayofyear decode
decode_histogram decode_oracle default degrees des_decrypt des_encrypt elt encode encrypt etag exp export_set
extract extractvalue field find_in_set floor format format_bytes format_pico_time from_base64 from_days
from_unixtime get_format greatest gtid_subset gtid_subtract hex hour icu_version if ifnull inet6_aton
inet6_ntoa inet_aton inet_ntoa insert instr interval is_free_lock is_ipv4 is_ipv4_compat is_ipv4_mapped
is_ipv6 is_used_lock is_uuid isnull kdf last_day lcase least left length lengthb ln load_file localtime
localtimestamp locate log log10 log2 lower lpad lpad_oracle ltrim ltrim_oracle make_set makedate maketime
master_gtid_wait master_pos_wait match md5 microsecond mid minute mod month monthname months_between
name_const natural_sort_key now nullif nvl nvl2 oct octet_length old_password ord password period_add
period_diff pi position pow power ps_current_thread_id ps_thread_id quarter quote radians rand random_bytes
regexp_instr regexp_like regexp_replace regexp_substr repeat replace
replace_oracle reverse right roles_graphml round rownum rpad rpad_oracle rtrim rtrim_oracle schema schemas
sec_to_time second session_user sformat sha sha1 sha2 sign sin sleep soundex source_pos_wait space sqrt
statement_digest statement_digest_text str_to_date strcmp subdate substr substr_oracle substring
substring_index subtime sys_guid sysdate system_user tan time time_format time_to_sec timediff timestamp
timestampadd timestampdiff to_base64 to_char to_date to_days to_number to_seconds translate trim trim_oracle
trunc truncate ucase uncompress uncompressed_length unhex unix_timestamp updatexml upper user utc_date
utc_time utc_timestamp uuid uuid_short uuid_timestamp uuid_to_bin uuid_v4 uuid_v7 validate_password_strength
value values version wait_for_executed_gtid_set week weekday weekofyear weight_string wsrep_last_seen_gtid
wsrep_last_written_gtid wsrep_sync_wait_upto_gtid xmltype year yearweek
"""

_JSON = """
column_add column_check column_create column_delete column_exists column_get column_json column_list
json_array json_array_append json_array_insert json_array_intersect json_compact json_contains
json_contains_path json_depth json_detailed json_duality_object json_equals json_exists json_extract
json_insert json_key_value json_keys json_length json_loose json_merge json_merge_patch json_merge_preserve
json_normalize json_object json_object_filter_keys json_object_to_array json_overlaps json_pretty json_query
json_quote json_remove json_replace json_schema_valid json_schema_validation_report json_search json_set
json_storage_free json_storage_size json_table json_type json_unquote json_valid json_value
"""

_SPATIAL = """
area asbinary astext aswkb aswkt boundary buffer centroid contains convexhull crosses dimension disjoint
distance endpoint envelope equals exteriorring geomcollection geomcollfromtext geomcollfromwkb
geometrycollection geometrycollectionfromtext geometrycollectionfromwkb geometryfromtext geometryfromwkb
geometryn geometrytype geomfromtext geomfromwkb glength interiorringn intersects isclosed isempty isring
issimple linefromtext linefromwkb linestring linestringfromtext linestringfromwkb mbrcontains mbrcoveredby
mbrcovers mbrdisjoint mbrequal mbrequals mbrintersects mbroverlaps mbrtouches mbrwithin mlinefromtext
mlinefromwkb mpointfromtext mpointfromwkb mpolyfromtext mpolyfromwkb multilinestring multilinestringfromtext
multilinestringfromwkb multipoint multipointfromtext multipointfromwkb multipolygon multipolygonfromtext
multipolygonfromwkb numgeometries numinteriorrings numpoints overlaps point pointfromtext pointfromwkb pointn
pointonsurface polyfromtext polyfromwkb polygon polygonfromtext polygonfromwkb srid st_area st_asbinary
st_asgeojson st_astext st_aswkb st_aswkt st_boundary st_buffer st_buffer_strategy st_centroid st_contains
st_convexhull st_crosses st_difference st_dimension st_disjoint st_distance st_distance_sphere st_endpoint
st_envelope st_equals st_exteriorring st_frechetdistance st_geohash st_geomcollfromtext st_geomcollfromtxt
st_geomcollfromwkb st_geometrycollectionfromtext st_geometrycollectionfromwkb st_geometryfromtext
st_geometryfromwkb st_geometryn st_geometrytype st_geomfromgeojson st_geomfromtext st_geomfromwkb
st_hausdorffdistance st_interiorringn st_intersection st_intersects st_isclosed st_isempty st_isring
st_issimple st_isvalid st_latfromgeohash st_latitude st_length st_linefromtext st_linefromwkb
st_lineinterpolatepoint st_lineinterpolatepoints st_linestringfromtext st_linestringfromwkb st_longfromgeohash
st_longitude st_makeenvelope st_mlinefromtext st_mlinefromwkb st_mpointfromtext st_mpointfromwkb
st_mpolyfromtext st_mpolyfromwkb st_multilinestringfromtext st_multilinestringfromwkb st_multipointfromtext
st_multipointfromwkb st_multipolygonfromtext st_multipolygonfromwkb st_numgeometries st_numinteriorring
st_numinteriorrings st_numpoints st_overlaps st_pointatdistance st_pointfromgeohash st_pointfromtext
st_pointfromwkb st_pointn st_pointonsurface st_polyfromtext st_polyfromwkb st_polygonfromtext
st_polygonfromwkb st_relate st_simplify st_srid st_startpoint st_swapxy st_symdifference st_touches
st_transform st_union st_validate st_within st_x st_y startpoint touches within
"""

_VECTOR = """
from_vector string_to_vector to_vector vec_distance vec_distance_cosine vec_distance_euclidean vec_fromtext
vec_totext vector_dim vector_to_string
"""

# `x (`: a clause, an operator or a type. ANALYSE is MariaDB's PROCEDURE ANALYSE().
_GRAMMAR = """
against all analyse and any as between bigint binary bit blob bool boolean by case character check columns
cross cube date datetime dec decimal delete desc describe dim distinct distinctrow div do double
double_precision else enum escape except exists explain fixed float float4 float8 for from full having
high_priority ignore in index inner int int1 int2 int3 int4 int8 integer intersect is join key lateral like
limit long longtext low_priority mediumint mediumtext middleint minus national natural nchar not null numeric
nvarchar of offset on or order outer over partition partitioning procedure quick range real regexp respect
returning rlike rollup row rows select serial set signed skip smallint some soundslike sql_big_result
sql_buffer_result sql_cache sql_calc_found_rows sql_no_cache sql_small_result straight_join table text than
then tinyint unicode union unique unsigned update use using varbinary varchar varchar2 varcharacter varying
vector when where window with xor
"""

NATIVE: Final[frozenset[bytes]] = frozenset(
    word.encode() for word in " ".join((_AGGREGATE, _GENERAL, _JSON, _SPATIAL, _VECTOR)).split()
)
KEYWORDS: Final[frozenset[bytes]] = frozenset(word.encode() for word in _GRAMMAR.split())
HARMLESS: Final[frozenset[bytes]] = NATIVE | KEYWORDS
