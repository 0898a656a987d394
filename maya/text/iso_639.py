"""Language codes and names: ISO 639-1, and the three-letter codes of languages that public corpora use.

Other codes of three letters can be used too: ISO 639-3 has 7,900.
"""

# Each entry: the code, other codes of the same language (ISO 639-2 and 639-3, and withdrawn ones), its name.
_TABLE = """
aa aar Afar; ab abk Abkhazian; ae ave Avestan; af afr Afrikaans; ak aka Akan; am amh Amharic; an arg
Aragonese; ar ara arb Arabic; as asm Assamese; av ava Avaric; ay aym Aymara; az aze azj Azerbaijani; ba bak
Bashkir; be bel Belarusian; bg bul Bulgarian; bi bis Bislama; bm bam Bambara; bn ben Bengali; bo bod tib
Tibetan; br bre Breton; bs bos Bosnian; ca cat Catalan; ce che Chechen; ch cha Chamorro; co cos Corsican; cr
cre Cree; cs ces cze Czech; cu chu Church Slavic; cv chv Chuvash; cy cym wel Welsh; da dan Danish; de deu
ger German; dv div Divehi; dz dzo Dzongkha; ee ewe Ewe; el ell gre Greek; en eng English; eo epo Esperanto;
es spa Spanish; et est ekk Estonian; eu eus baq Basque; fa fas per pes Persian; ff ful Fulah; fi fin
Finnish; fj fij Fijian; fo fao Faroese; fr fra fre French; fy fry Western Frisian; ga gle Irish; gd gla
Scottish Gaelic; gl glg Galician; gn grn Guarani; gu guj Gujarati; gv glv Manx; ha hau Hausa; he heb iw
Hebrew; hi hin Hindi; ho hmo Hiri Motu; hr hrv Croatian; ht hat Haitian Creole; hu hun Hungarian; hy hye arm
Armenian; hz her Herero; ia ina Interlingua; id ind in Indonesian; ie ile Interlingue; ig ibo Igbo; ii iii
Sichuan Yi; ik ipk Inupiaq; io ido Ido; is isl ice Icelandic; it ita Italian; iu iku Inuktitut; ja jpn
Japanese; jv jav jw Javanese; ka kat geo Georgian; kg kon Kongo; ki kik Kikuyu; kj kua Kuanyama; kk kaz
Kazakh; kl kal Kalaallisut; km khm Khmer; kn kan Kannada; ko kor Korean; kr kau Kanuri; ks kas Kashmiri; ku
kur Kurdish; kv kom Komi; kw cor Cornish; ky kir Kyrgyz; la lat Latin; lb ltz Luxembourgish; lg lug Ganda;
li lim Limburgish; ln lin Lingala; lo lao Lao; lt lit Lithuanian; lu lub Luba-Katanga; lv lav lvs Latvian;
mg mlg Malagasy; mh mah Marshallese; mi mri mao Maori; mk mkd mac Macedonian; ml mal Malayalam; mn mon khk
Mongolian; mr mar Marathi; ms msa may zsm Malay; mt mlt Maltese; my mya bur Burmese; na nau Nauru; nb nob
Norwegian Bokmål; nd nde North Ndebele; ne nep npi Nepali; ng ndo Ndonga; nl nld dut Dutch; nn nno Norwegian
Nynorsk; no nor Norwegian; nr nbl South Ndebele; nv nav Navajo; ny nya Chichewa; oc oci Occitan; oj oji
Ojibwa; om orm Oromo; or ori ory Odia; os oss Ossetian; pa pan Punjabi; pi pli Pali; pl pol Polish; ps pus
pbt Pashto; pt por Portuguese; qu que Quechua; rm roh Romansh; rn run Rundi; ro ron rum mo Romanian; ru rus
Russian; rw kin Kinyarwanda; sa san Sanskrit; sc srd Sardinian; sd snd Sindhi; se sme Northern Sami; sg sag
Sango; sh hbs Serbo-Croatian; si sin Sinhala; sk slk slo Slovak; sl slv Slovenian; sm smo Samoan; sn sna
Shona; so som Somali; sq sqi alb Albanian; sr srp Serbian; ss ssw Swati; st sot Sotho; su sun Sundanese; sv
swe Swedish; sw swa swh Swahili; ta tam Tamil; te tel Telugu; tg tgk Tajik; th tha Thai; ti tir Tigrinya; tk
tuk Turkmen; tl tgl Tagalog; tn tsn Tswana; to ton Tongan; tr tur Turkish; ts tso Tsonga; tt tat Tatar; tw
twi Twi; ty tah Tahitian; ug uig Uyghur; uk ukr Ukrainian; ur urd Urdu; uz uzb uzn Uzbek; ve ven Venda; vi
vie Vietnamese; vo vol Volapük; wa wln Walloon; wo wol Wolof; xh xho Xhosa; yi yid ji Yiddish; yo yor
Yoruba; za zha Zhuang; zh zho chi Chinese; zu zul Zulu; ary Moroccan Arabic; arz Egyptian Arabic; ast
Asturian; awa Awadhi; ban Balinese; bcl Central Bikol; bgc Haryanvi; bho Bhojpuri; brx Bodo; ceb Cebuano;
ckb Central Kurdish; cmn Mandarin; cnh Hakha Chin; csb Kashubian; doi Dogri; dsb Lower Sorbian; fil
Filipino; fur Friulian; gom Goan Konkani; grc Ancient Greek; gsw Swiss German; guz Gusii; haw Hawaiian; hne
Chhattisgarhi; hsb Upper Sorbian; ilo Iloko; kaa Karakalpak; kab Kabyle; kam Kamba; kbd Kabardian; kea
Kabuverdianu; kmr Northern Kurdish; kok Konkani; kpe Kpelle; lij Ligurian; ltg Latgalian; luo Luo; mag
Magahi; mai Maithili; mdf Moksha; mhr Meadow Mari; mni Manipuri; mrj Hill Mari; myv Erzya; nan Min Nan
Chinese; nap Neapolitan; nso Northern Sotho; pap Papiamento; pcm Nigerian Pidgin; prs Dari; quy Ayacucho
Quechua; raj Rajasthani; sah Yakut; sat Santali; scn Sicilian; sco Scots; skr Saraiki; szl Silesian; tcy
Tulu; tig Tigre; tok Toki Pona; tpi Tok Pisin; tyv Tuvinian; umb Umbundu; vec Venetian; vot Votic; war
Waray; yue Cantonese; zgh Standard Moroccan Tamazight
"""


def _entries() -> list[tuple[list[str], str]]:
    """(codes, name) of each language."""
    entries = []
    for entry in _TABLE.split(";"):
        words = entry.split()
        # Names begin with a capital letter; codes do not.
        codes = [word for word in words if word[0].islower()]
        if codes:
            entries.append((codes, " ".join(words[len(codes) :])))
    return entries


NAMES: dict[str, str] = {codes[0]: name for codes, name in _entries()}
"""English name by code."""

WITHDRAWN = ("in", "iw", "ji", "jw", "mo")
"""Withdrawn codes of two letters: old data have them, but they are also names of folders (in/)."""

SAME_CODE: dict[str, str] = {other: codes[0] for codes, _ in _entries() for other in codes[1:]}
"""The code used here, by the other codes of the same language."""
