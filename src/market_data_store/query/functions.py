"""Tabular module: the functions of the engine that a user's query may call.

These are the engine's own functions that compute on values. Left out are those that say where rows lie on disk
(``input_file_name``, ``file_row_index``). What a later engine version adds stays refused until it is listed here.
"""

from __future__ import annotations

from typing import Final

_NAMES: Final = """
abs acos acosh asin asinh atan atan2 atanh cbrt ceil cos cosh cot degrees exp factorial floor gcd isnan iszero lcm
ln log log10 log2 nanvl pi pow power radians rand random round signum sin sinh sqrt tan tanh trunc

ascii bit_length btrim char_length character_length chr concat concat_ws contains decode digest encode ends_with
find_in_set initcap instr left length levenshtein lower lpad ltrim md5 octet_length overlay position regexp_count
regexp_instr regexp_like regexp_match regexp_replace repeat replace reverse right rpad rtrim sha224 sha256 sha384
sha512 split_part starts_with string_to_array string_to_list strpos substr substr_index substring substring_index
to_hex translate trim upper uuid

current_date current_time current_timestamp date_bin date_format date_part date_trunc datepart datetrunc
from_unixtime make_date make_time now to_char to_date to_local_time to_time to_timestamp to_timestamp_micros
to_timestamp_millis to_timestamp_nanos to_timestamp_seconds to_unixtime today

arrow_cast arrow_try_cast arrow_typeof coalesce greatest ifnull least nullif nvl nvl2 version

array_any_value array_append array_avg array_cat array_compact array_concat array_contains array_dims
array_distance array_distinct array_element array_empty array_except array_extract array_has array_has_all
array_has_any array_indexof array_intersect array_join array_length array_max array_min array_ndims
array_normalize array_pop_back array_pop_front array_position array_positions array_prepend array_product
array_push_back array_push_front array_remove array_remove_all array_remove_n array_repeat array_replace
array_replace_all array_replace_n array_resize array_reverse array_scale array_slice array_sort array_subtract
array_sum array_to_string array_union arrays_overlap arrays_zip cardinality cosine_distance dot_product element_at
empty flatten generate_series get_field inner_product list_distinct list_sort make_array make_list map
map_entries map_extract map_keys map_values named_struct range row struct unnest

any_value approx_distinct approx_median approx_percentile_cont approx_percentile_cont_with_weight array_agg avg
bit_and bit_or bit_xor bool_and bool_or corr count covar covar_pop covar_samp first_value grouping last_value max
mean median min nth_value percentile_cont quantile_cont regr_avgx regr_avgy regr_count regr_intercept regr_r2
regr_slope regr_sxx regr_sxy regr_syy stddev stddev_pop stddev_samp string_agg sum var var_pop var_population
var_samp var_sample

cume_dist dense_rank lag lead ntile percent_rank rank row_number
"""

FUNCTIONS: Final[frozenset[str]] = frozenset(_NAMES.split())

TABLE_FUNCTIONS: Final[frozenset[str]] = frozenset({"generate_series", "range"})
"""Functions that may stand where a table stands; both count, neither reads."""
