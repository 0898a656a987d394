"""Maya's language codes as translation models write them.

NLLB-200 uses FLORES-200's codes: ISO 639-3 and a script. A language in its usual script is found by its
code, in another by code and script (ks-Deva). MADLAD uses ISO 639-1 codes, or 639-3 without one.
"""

from functools import cache

from maya.errors import MayaError
from maya.text.iso_639 import SAME_CODE
from maya.text.languages import language_code

# The usual script of a language first, if it has several.
_FLORES = """
ace_Latn ace_Arab acm_Arab acq_Arab aeb_Arab afr_Latn ajp_Arab aka_Latn amh_Ethi apc_Arab arb_Arab ars_Arab
ary_Arab arz_Arab asm_Beng ast_Latn awa_Deva ayr_Latn azb_Arab azj_Latn bak_Cyrl bam_Latn ban_Latn bel_Cyrl
bem_Latn ben_Beng bho_Deva bjn_Latn bjn_Arab bod_Tibt bos_Latn bug_Latn bul_Cyrl cat_Latn ceb_Latn ces_Latn
cjk_Latn ckb_Arab crh_Latn cym_Latn dan_Latn deu_Latn dik_Latn dyu_Latn dzo_Tibt ell_Grek eng_Latn epo_Latn
est_Latn eus_Latn ewe_Latn fao_Latn pes_Arab fij_Latn fin_Latn fon_Latn fra_Latn fur_Latn fuv_Latn gla_Latn
gle_Latn glg_Latn grn_Latn guj_Gujr hat_Latn hau_Latn heb_Hebr hin_Deva hne_Deva hrv_Latn hun_Latn hye_Armn
ibo_Latn ilo_Latn ind_Latn isl_Latn ita_Latn jav_Latn jpn_Jpan kab_Latn kac_Latn kam_Latn kan_Knda kas_Arab
kas_Deva kat_Geor knc_Latn knc_Arab kaz_Cyrl kbp_Latn kea_Latn khm_Khmr kik_Latn kin_Latn kir_Cyrl kmb_Latn
kon_Latn kor_Hang kmr_Latn lao_Laoo lvs_Latn lij_Latn lim_Latn lin_Latn lit_Latn lmo_Latn ltg_Latn ltz_Latn
lua_Latn lug_Latn luo_Latn lus_Latn mag_Deva mai_Deva mal_Mlym mar_Deva min_Latn mkd_Cyrl plt_Latn mlt_Latn
mni_Beng khk_Cyrl mos_Latn mri_Latn zsm_Latn mya_Mymr nld_Latn nno_Latn nob_Latn npi_Deva nso_Latn nus_Latn
nya_Latn oci_Latn gaz_Latn ory_Orya pag_Latn pan_Guru pap_Latn pol_Latn por_Latn prs_Arab pbt_Arab quy_Latn
ron_Latn run_Latn rus_Cyrl sag_Latn san_Deva sat_Olck scn_Latn shn_Mymr sin_Sinh slk_Latn slv_Latn smo_Latn
sna_Latn snd_Arab som_Latn sot_Latn spa_Latn als_Latn srd_Latn srp_Cyrl ssw_Latn sun_Latn swe_Latn swh_Latn
szl_Latn tam_Taml tat_Cyrl tel_Telu tgk_Cyrl tgl_Latn tha_Thai tir_Ethi taq_Latn taq_Tfng tpi_Latn tsn_Latn
tso_Latn tuk_Latn tum_Latn tur_Latn twi_Latn tzm_Tfng uig_Arab ukr_Cyrl umb_Latn urd_Arab uzn_Latn vec_Latn
vie_Latn war_Latn wol_Latn xho_Latn ydd_Hebr yor_Latn yue_Hant zho_Hans zho_Hant zul_Latn
"""
# Codes of FLORES-200 that are narrower than the code of ISO 639-1.
_NARROW = {
    "ara": "arb", "aym": "ayr", "que": "quy", "mlg": "plt", "orm": "gaz", "sqi": "als",
    "yid": "ydd", "kur": "kmr", "kau": "knc", "ful": "fuv", "cmn": "zho", "fil": "tgl", "nor": "nob",
}  # fmt: skip
_REGIONS = {"zh-TW": "zho_Hant", "zh-HK": "zho_Hant", "zh-CN": "zho_Hans", "zh-SG": "zho_Hans"}


@cache
def _by_code() -> dict[str, str]:
    codes: dict[str, str] = {}
    for name in _FLORES.split():
        language, script = name.split("_")
        own = SAME_CODE.get(language, language)
        codes.setdefault(own, name)
        codes[f"{own}-{script}"] = name
    for wide, narrow in _NARROW.items():
        own = SAME_CODE.get(wide, wide)
        codes.setdefault(own, next(name for name in _FLORES.split() if name.startswith(f"{narrow}_")))
    return codes | _REGIONS


def nllb_code(language: str) -> str:
    """FLORES-200's code of a language: hi is hin_Deva. Raises MayaError for one that NLLB-200 has not."""
    code = language_code(language)
    codes = _by_code()
    if code not in codes:
        raise MayaError(f"NLLB does not translate {language[:40]!r}")
    return codes[code]


def iso_codes(language: str) -> tuple[str, ...]:
    """The ISO 639 codes of a language, the usual one first: hi, hin. Raises MayaError for an unknown one."""
    code = language_code(language)
    base = code.split("-")[0]
    return tuple(dict.fromkeys((code, base, *(own for own, usual in SAME_CODE.items() if usual == base))))
